//! Why a client has no connection.

use std::time::Duration;

use crate::bridge::{connection::End, hello::HelloError, stream::DialError};

/// Why a connection was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectFault {
    #[error("{}", .0.message)]
    Dial(DialError),
    #[error("{0}")]
    Hello(HelloError),
    #[error("the node did not answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error("the connection ended before the node had said welcome: {0}")]
    NotWelcomed(End),
}
