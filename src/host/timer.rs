//! Deadlines that work from any runtime: one thread for each environment wakes what is due.
//!
//! actix's and tokio's timers panic outside a tokio runtime, and the futures handed to users must run on any executor.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread::{self, JoinHandle},
    time::Instant,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Makes futures that end at an instant. Clones share one thread; they do not keep it alive.
#[derive(Clone)]
pub(crate) struct Timer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What sleeps, by instant; the number tells equal instants apart.
    sleeps: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    thread: Thread,
    stopped: bool,
}

/// What the thread does, so that a new deadline notifies it only if it would oversleep.
#[derive(Clone, Copy)]
enum Thread {
    /// It looks at `sleeps` again before it sleeps.
    Awake,
    AsleepUntil(Instant),
    /// Nothing is due, ever: it uses no CPU.
    Asleep,
}

impl Timer {
    /// Starts the thread.
    ///
    /// # Panics
    ///
    /// Panics if the operating system refuses to make a thread.
    pub(crate) fn start(name: &str) -> (Self, TimerThread) {
        let state = State { sleeps: BTreeMap::new(), next: 0, thread: Thread::Awake, stopped: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let thread = thread::Builder::new().name(name.to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        });
        let thread = thread.expect("the operating system makes a thread for the timer");
        (Self { shared: Arc::clone(&shared) }, TimerThread { shared, thread: Some(thread) })
    }

    /// A future that ends at `at`, or at once when the timer has been stopped.
    ///
    /// It is registered when it is first polled; dropping it removes it.
    pub(crate) fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { timer: self.clone(), at, state: SleepState::New }
    }

    /// Whether the environment has stopped the timer, so that sleeps end early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.state.lock().stopped
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

impl Shared {
    fn run(&self) {
        let mut due = Vec::new();
        let mut state = self.state.lock();
        while !state.stopped {
            let now = Instant::now();
            while let Some(first) = state.sleeps.first_entry()
                && first.key().0 <= now
            {
                due.push(first.remove());
            }
            if !due.is_empty() {
                MutexGuard::unlocked(&mut state, || due.drain(..).for_each(wake));
                continue;
            }
            if let Some(&(at, _)) = state.sleeps.keys().next() {
                state.thread = Thread::AsleepUntil(at);
                self.changed.wait_until(&mut state, at);
            } else {
                state.thread = Thread::Asleep;
                self.changed.wait(&mut state);
            }
            state.thread = Thread::Awake;
        }
    }

    fn stop(&self) {
        let sleeps = {
            let mut state = self.state.lock();
            state.stopped = true;
            std::mem::take(&mut state.sleeps)
        };
        self.changed.notify_one();
        sleeps.into_values().for_each(wake);
    }
}

/// Wakes what belongs to anyone: a waker that panics must not end the thread that every deadline depends on.
fn wake(waker: Waker) {
    if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
        tracing::error!("a waker panicked on the timer's thread");
    }
}

/// The thread behind a [`Timer`]. Dropping it stops the timer without waiting for the thread.
pub(crate) struct TimerThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TimerThread {
    /// Ends every sleep at once, present and future ones, and waits for the thread to end.
    ///
    /// On the timer's own thread, where a waker may drop the last handle of an environment, it does not wait.
    pub(crate) fn stop_and_join(mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the timer's thread panicked");
        }
    }
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for TimerThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerThread").finish_non_exhaustive()
    }
}

/// Ends at its instant; see [`Timer::sleep_until`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Sleep {
    timer: Timer,
    at: Instant,
    state: SleepState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SleepState {
    New,
    Registered(u64),
    Ended,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match this.state {
            SleepState::New => this.register(cx.waker()),
            // The thread alone decides what is due: what it has removed has ended. So no poll reads the clock.
            SleepState::Registered(number) => {
                let mut state = this.timer.shared.state.lock();
                match state.sleeps.get_mut(&(this.at, number)) {
                    Some(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
                    Some(waker) => {
                        let old = std::mem::replace(waker, cx.waker().clone());
                        drop(state);
                        drop(old);
                        Poll::Pending
                    }
                    None => {
                        drop(state);
                        this.state = SleepState::Ended;
                        Poll::Ready(())
                    }
                }
            }
            SleepState::Ended => Poll::Ready(()),
        }
    }
}

impl Sleep {
    fn register(&mut self, waker: &Waker) -> Poll<()> {
        let shared = &*self.timer.shared;
        let mut state = shared.state.lock();
        if state.stopped {
            drop(state);
            self.state = SleepState::Ended;
            return Poll::Ready(());
        }
        let number = state.next;
        state.next += 1;
        state.sleeps.insert((self.at, number), waker.clone());
        self.state = SleepState::Registered(number);
        let oversleeps = match state.thread {
            Thread::Awake => false,
            Thread::AsleepUntil(until) => self.at < until,
            Thread::Asleep => true,
        };
        if oversleeps {
            state.thread = Thread::Awake;
        }
        drop(state);
        if oversleeps {
            shared.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let SleepState::Registered(number) = self.state {
            let waker = self.timer.shared.state.lock().sleeps.remove(&(self.at, number));
            // Dropped with the lock released: the last waker of a task drops the task.
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::mpsc, time::Duration};

    use super::*;
    use crate::blocking::block_on;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_sleep_ends_at_its_instant_and_not_before() {
        let (timer, thread) = Timer::start("timer");
        let start = Instant::now();
        block_on(timer.sleep_until(start + Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        thread.stop_and_join();
    }

    #[test]
    fn an_earlier_deadline_overtakes_the_one_the_thread_sleeps_for() {
        let (timer, thread) = Timer::start("timer");
        let mut later = pin!(timer.sleep_until(Instant::now() + LONG));
        block_on(poll_fn(|cx| {
            assert!(later.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        }));
        let (ended, end) = mpsc::channel();
        let earlier = timer.sleep_until(Instant::now() + Duration::from_millis(5));
        thread::spawn(move || {
            block_on(earlier);
            ended.send(()).expect("the test waits");
        });
        end.recv_timeout(Duration::from_secs(10)).expect("the earlier deadline passes");
        thread.stop_and_join();
    }

    #[test]
    fn dropping_a_sleep_removes_it() {
        let (timer, thread) = Timer::start("timer");
        let mut sleep = Box::pin(timer.sleep_until(Instant::now() + LONG));
        assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(timer.shared.state.lock().sleeps.len(), 1);
        drop(sleep);
        assert!(timer.shared.state.lock().sleeps.is_empty());
        thread.stop_and_join();
    }

    #[test]
    fn stopping_ends_present_and_future_sleeps() {
        let (timer, thread) = Timer::start("timer");
        let (registered, present) = (timer.clone(), timer.clone());
        let sleeper = thread::spawn(move || block_on(present.sleep_until(Instant::now() + LONG)));
        // Only the sleeper registers anything, so its entry is the sign that it sleeps.
        while registered.shared.state.lock().sleeps.is_empty() {
            thread::yield_now();
        }
        thread.stop_and_join();
        sleeper.join().expect("the sleep ends");
        block_on(timer.sleep_until(Instant::now() + LONG));
        assert!(timer.is_stopped());
    }

    #[test]
    fn a_panicking_waker_does_not_end_the_thread() {
        struct Bomb;
        impl std::task::Wake for Bomb {
            fn wake(self: Arc<Self>) {
                panic!("a waker of the test");
            }
        }
        let (timer, thread) = Timer::start("timer");
        let mut sleep = pin!(timer.sleep_until(Instant::now()));
        assert!(sleep.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(Bomb)))).is_pending());
        block_on(timer.sleep_until(Instant::now() + Duration::from_millis(1)));
        thread.stop_and_join();
    }
}
