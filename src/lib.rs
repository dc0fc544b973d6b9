//! certctl
