//! Waiting for a future on the calling thread.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::{Condvar, Mutex};

/// Runs `future` on this thread until it is ready.
///
/// Works on any thread, also within another executor, whose thread it then holds up. It is a condition variable and
/// not `thread::park`, because an executor around this call may park the same thread and would lose its wake-up to us.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(Arc::clone(&signal));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        signal.wait();
    }
}

/// Set by a wake, cleared by the wait that it ends; so a wake during a poll is not lost.
#[derive(Default)]
struct Signal {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn wait(&self) {
        let mut woken = self.woken.lock();
        while !*woken {
            self.changed.wait(&mut woken);
        }
        *woken = false;
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn a_future_that_wakes_itself_is_polled_again() {
        let mut polls = 0;
        let output = block_on(poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 3 { Poll::Ready("done") } else { Poll::Pending }
        }));
        assert_eq!(output, "done");
    }

    #[test]
    fn a_wake_from_another_thread_ends_the_wait() {
        let (done, outcome) = mpsc::channel();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let waiting = thread::spawn(move || done.send(block_on(receiver)));
        sender.send(5).expect("the receiver waits");
        let received = outcome.recv_timeout(Duration::from_secs(10)).expect("the wait ends");
        assert_eq!(received, Ok(5));
        waiting.join().expect("the thread does not panic").expect("the channel is open");
    }

    #[test]
    fn it_nests_in_itself_and_in_tokio() {
        let nested = async { block_on(async { block_on(async { 1 }) }) };
        assert_eq!(block_on(nested), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
        assert_eq!(runtime.block_on(async { block_on(async { 2 }) }), 2);
    }
}
