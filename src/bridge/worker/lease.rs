//! How long a worker may take itself for one: until so long after it sent the last ping that was answered.
//!
//! A node that does not answer has heard nothing since then either, and gives the worker up only after a longer silence. So a
//! worker that is given up has stopped by itself before: each step of a task passes the lease's fence.
//!
//! All times are by [`Host::running_for`]: a machine that was suspended has let its leases run out.

use std::{cell::RefCell, collections::VecDeque, future::pending, pin::pin, time::Duration};

use futures::future::select;
use tokio::sync::Notify;

use crate::{
    bridge::{
        connection::Heartbeat,
        frame::{Kind, Lane},
        outbound::Outbound,
    },
    host::{Fence, Host},
    link::WORKER_SILENCE,
};

/// How often a worker pings.
pub(in crate::bridge) const PING: Duration = Duration::from_secs(1);

/// How long after the sending of the last ping that was answered a worker is one.
pub(in crate::bridge) const LEASE: Duration = Duration::from_secs(4);

/// A worker that was silent for so long is lost. Longer than its lease, which it so has let run out before.
pub(in crate::bridge) const SILENCE: Duration = WORKER_SILENCE;

/// How long after its end code of the user's may still run that was running then: the node's silence, which begins with the
/// last ping that was answered or later, is longer than the two together.
const GRACE: Duration = Duration::from_millis(500);

/// Pings in a lease.
const PINGS: u32 = 4;

/// The node's eye on a worker.
pub(in crate::bridge) fn heartbeat_of_node() -> Heartbeat {
    Heartbeat { interval: PING, timeout: SILENCE }
}

/// The lease of one connection.
pub(super) struct Lease {
    host: Host,
    /// Open for as long as the lease lasts.
    fence: Fence,
    state: RefCell<State>,
    /// Told when it became shorter.
    shortened: Notify,
}

struct State {
    length: Duration,
    /// When the last ping was sent that was answered.
    proven: Duration,
    /// Those that were not, by number, with when they were sent.
    sent: VecDeque<(u64, Duration)>,
    pings: u64,
    has_ended: bool,
}

impl State {
    fn ends(&self) -> Duration {
        self.proven + self.length
    }
}

impl Lease {
    /// It begins now.
    pub(super) fn new(host: &Host) -> Self {
        let proven = host.running_for();
        let state = State { length: LEASE, proven, sent: VecDeque::new(), pings: 0, has_ended: false };
        let lease =
            Self { host: host.clone(), fence: Fence::new(host), state: RefCell::new(state), shortened: Notify::new() };
        lease.open();
        lease
    }

    /// What is to be passed by all that is done by virtue of it.
    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }

    fn open(&self) {
        let state = self.state.borrow();
        if !state.has_ended {
            self.fence.open_until(state.ends());
        }
    }

    /// The node has said how long leases are.
    pub(super) fn lasts(&self, length: Duration) {
        self.state.borrow_mut().length = length.min(LEASE);
        self.open();
        self.shortened.notify_one();
    }

    /// Nothing is done for this connection any more.
    pub(super) fn end(&self) {
        self.state.borrow_mut().has_ended = true;
        self.fence.close();
    }

    pub(super) fn is_over(&self) -> bool {
        let state = self.state.borrow();
        state.has_ended || self.host.running_for() >= state.ends()
    }

    pub(super) fn ponged(&self, ping: u64) {
        {
            let state = &mut *self.state.borrow_mut();
            let Some(at) = state.sent.iter().position(|(number, _)| *number == ping) else { return };
            let answered = state.sent.drain(..=at).next_back();
            state.proven = answered.map_or(state.proven, |(_, sent)| sent);
        }
        self.open();
    }

    /// Pings. Ready when the lease is over.
    pub(super) async fn run(&self, outbound: &Outbound) {
        let mut next = self.host.running_for();
        loop {
            let now = self.host.running_for();
            let ends = {
                let state = &mut *self.state.borrow_mut();
                let ends = state.ends();
                if now >= ends {
                    return;
                }
                // It may have become shorter.
                next = next.min(now + state.length / PINGS);
                if now >= next {
                    state.pings += 1;
                    state.sent.push_back((state.pings, now));
                    outbound.push(Kind::Ping, Lane::Control, state.pings, &[]);
                    next = now + state.length / PINGS;
                }
                ends
            };
            if self.host.is_closed() {
                // A sleep would take no time from here on, and the process is being ended.
                pending::<()>().await;
            }
            let pause = ends.min(next).saturating_sub(now);
            select(pin!(self.host.sleep(pause)), pin!(self.shortened.notified())).await;
        }
    }

    /// Waits until no code of the user's runs by virtue of this lease, which was ended. False if some does although others may
    /// have the jobs by now.
    pub(super) async fn vacated(&self) -> bool {
        let ends = self.state.borrow().ends() + GRACE;
        let left = ends.saturating_sub(self.host.running_for());
        self.host.timeout(left, self.fence.vacated()).await.is_ok() || self.host.is_closed()
    }
}
