//! Work on the pool for code that blocks.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::{JoinError, JoinHandle};

/// What [`Host::blocking`](super::Host::blocking) started: ready with what the code returned.
#[derive(Debug)]
pub(crate) struct Blocking<T>(JoinHandle<T>);

impl<T> Blocking<T> {
    pub(super) fn new(handle: JoinHandle<T>) -> Self {
        Self(handle)
    }
}

impl<T> Future for Blocking<T> {
    type Output = Result<T, Unreturned>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(Unreturned)
    }
}

/// The code did not return: it panicked, or the pool was closed before it began.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Unreturned(JoinError);
