//! Agents without HTTP: sessions, and work over the three calls.

mod faults;
mod leaving;
mod rig;
mod secrets;
mod work;
