//! Issuers, targets, stores, hosts and key stores for certctl.

pub mod hosts;
