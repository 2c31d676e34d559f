//! HTTP/1.1 on the wire (RFC 9112), as the gateway reads and writes it on both of its sides.
//!
//! What a message is between its bytes and its types: [`decode`] takes the framing off a body and
//! [`encode`] puts it on, [`fields`] turns rows of a head into a header map and back, [`read`] takes
//! bytes from a socket and [`outbox`] writes them, both with memory that all connections of a thread
//! share. Which messages are sent, and when, is the business of the two sides,
//! [`edge`](crate::edge) and [`upstream`](crate::ollama::upstream).

#![allow(dead_code)]

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod fields;
pub(crate) mod outbox;
pub(crate) mod read;
