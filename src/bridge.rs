//! The bridge: the framed link over which a client and a node exchange actor messages.

mod frame;
mod handshake;
mod hello;
mod key;
