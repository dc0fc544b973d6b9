//! Life without a server.
