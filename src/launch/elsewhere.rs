//! Where the operating system is no Unix, this process starts no workers.

use std::{convert::Infallible, io, path::Path, time::Duration};

use super::{Launch, Orders, Unjoined, orders::is_worker};
use crate::host::Host;

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "to start worker processes takes a Unix; let them join")
}

pub(crate) struct Program(Infallible);

impl Program {
    pub(crate) fn this() -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn at(_: &Path) -> io::Result<Self> {
        Err(unsupported())
    }
}

pub(crate) struct Launcher(Infallible);

impl Launcher {
    pub(crate) fn start(launch: Launch) -> io::Result<Self> {
        match launch.program.0 {}
    }

    pub(crate) async fn all_joined(&self, _: &Host, _: Duration) -> Result<(), Unjoined> {
        match self.0 {}
    }
}

pub(crate) struct Leash(Infallible);

impl Leash {
    pub(crate) fn joined(&self, _: u32) {
        match self.0 {}
    }

    pub(crate) fn closed(&self) {
        match self.0 {}
    }

    pub(crate) fn wait(&self) {
        match self.0 {}
    }
}

pub(crate) fn take_orders() -> Option<io::Result<(Orders, Leash)>> {
    is_worker().then(|| Err(unsupported()))
}
