//! Two ends in one process: links that are read and written by hand, or by the side that has something to say.

mod calls;
mod inputs;
mod instances;
mod outputs;

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    dataplane::wiring::Streams,
    host::Host,
    job::Limits,
    peer::{Link, Peers},
    port::{OutputKind, OutputStore},
    schema::TypeDescription,
    worker::relay::turning::{Turn, Turning},
};

/// What one end of a link has for the other, and the other way round.
struct Wire {
    home: Arc<Link>,
    away: Arc<Link>,
}

impl Wire {
    /// Between the home and the worker of this number.
    fn to(worker: u32) -> Self {
        Self { home: Link::new(worker, true), away: Link::new(0, true) }
    }

    fn carry_home(&self) -> bool {
        carry(&self.away, &self.home)
    }

    fn carry_away(&self) -> bool {
        carry(&self.home, &self.away)
    }

    /// Until neither end has anything to say.
    fn carry(&self) {
        while self.carry_home() | self.carry_away() {}
    }
}

/// Has one end read what the other has to write, if there is anything.
fn carry(from: &Arc<Link>, to: &Arc<Link>) -> bool {
    let mut bytes = Vec::new();
    let _ = from.poll_written(&Context::from_waker(Waker::noop()), &mut bytes);
    if bytes.is_empty() {
        return false;
    }
    assert_eq!(to.read(&bytes), Ok(bytes.len()));
    true
}

/// Has each end read at once what the other says.
struct Carrier {
    from: Arc<Link>,
    to: Arc<Link>,
}

impl Turn for Carrier {
    fn turn(&self, cx: &mut Context<'_>) {
        let mut bytes = Vec::new();
        while let Poll::Ready(Some(())) = self.from.poll_written(cx, &mut bytes) {
            match self.to.read(&bytes) {
                Ok(read) => assert_eq!(read, bytes.len()),
                Err(message) => panic!("a rule was broken: {message}"),
            }
        }
    }
}

impl Wire {
    /// As long as what is returned lives.
    fn by_itself(&self) -> [Arc<Turning<Carrier>>; 2] {
        let carriers = [(&self.home, &self.away), (&self.away, &self.home)]
            .map(|(from, to)| Turning::new(Carrier { from: Arc::clone(from), to: Arc::clone(to) }));
        carriers.iter().for_each(Turning::wake);
        carriers
    }
}

fn peers(wires: &[Wire]) -> Arc<Peers> {
    let links = wires.iter().map(|wire| Some(Arc::clone(&wire.home)));
    Peers::new(std::iter::once(None).chain(links).collect())
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The output of a future that must be ready.
#[track_caller]
fn now<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it is not ready"),
    }
}

fn output<T: serde::de::DeserializeOwned + 'static>(kind: OutputKind, limits: &Limits) -> Streams {
    let store = OutputStore::new("out", kind, TypeDescription::of::<T>(), limits, Host::shared_by_tests().clone());
    Streams { outputs: vec![("out".to_owned(), store)], inputs: Vec::new() }
}
