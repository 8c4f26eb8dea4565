//! Ports without an environment: the task's side is polled by hand, the user's side runs on threads of its own.

mod inputs;
mod outputs;
mod writers;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures::future::BoxFuture;

use super::{AnyInput, ChunkSource, FoundInput, InputError, InputResolver, OutputError, OutputResolver, OutputStore};
use crate::{blocking::block_on, job::JobId, schema::TypeDescription};

/// Counts its wake-ups.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Bell {
    fn rung(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (Arc::clone(&bell), Waker::from(bell))
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

/// Polls a future that must be ready.
fn now<F: Future>(what: &str, future: F) -> F::Output {
    match poll(pin!(future), Waker::noop()) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("{what} is not ready"),
    }
}

/// Runs `work` on a thread of its own.
fn start<R: Send + 'static>(what: &'static str, work: impl FnOnce() -> R + Send + 'static) -> Running<R> {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    Running { what, result }
}

struct Running<R> {
    what: &'static str,
    result: mpsc::Receiver<R>,
}

impl<R> Running<R> {
    fn end(self) -> R {
        match self.result.recv_timeout(Duration::from_secs(20)) {
            Ok(result) => result,
            Err(error) => panic!("{}: {error}", self.what),
        }
    }
}

/// Resolves every name to one port.
struct Fixed<P>(P);

impl OutputResolver for Fixed<Arc<OutputStore>> {
    fn output(
        &self,
        _: JobId,
        _: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>> {
        let reader = self.0.reader(&wanted).map(|reader| Box::new(reader) as Box<dyn ChunkSource>);
        Box::pin(std::future::ready(reader))
    }
}

impl InputResolver for Fixed<Arc<dyn AnyInput>> {
    fn input(&self, _: JobId, _: &str, _: Arc<TypeDescription>) -> BoxFuture<'static, Result<FoundInput, InputError>> {
        Box::pin(std::future::ready(Ok(FoundInput::Port(Arc::clone(&self.0)))))
    }
}

fn wait_for_room(store: &Arc<OutputStore>) {
    block_on(poll_fn(|cx| store.end().poll_room(cx)));
}

fn has_room(store: &Arc<OutputStore>, waker: &Waker) -> bool {
    store.end().poll_room(&mut Context::from_waker(waker)).is_ready()
}
