//! The operator's view: server, agent and command line as programs of their own, on a real nginx.

mod block;
mod life;
mod site;
