//! How long a worker may take itself for one: until so long after it sent the last ping that was answered.
//!
//! A node that does not answer has heard nothing since then either, and gives the worker up only after a longer silence. So a
//! worker that is given up has stopped by itself before.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::pending,
    pin::pin,
    time::{Duration, Instant},
};

use futures::future::select;
use tokio::sync::Notify;

use crate::{
    bridge::{
        connection::Heartbeat,
        frame::{Kind, Lane},
        outbound::Outbound,
    },
    host::Host,
};

/// How often a worker pings.
pub(in crate::bridge) const PING: Duration = Duration::from_secs(1);

/// How long after the sending of the last ping that was answered a worker is one.
pub(in crate::bridge) const LEASE: Duration = Duration::from_secs(4);

/// A worker that was silent for so long is lost. Longer than its lease, which it so has let run out before.
pub(in crate::bridge) const SILENCE: Duration = Duration::from_secs(5);

/// Pings in a lease.
const PINGS: u32 = 4;

/// The node's eye on a worker.
pub(in crate::bridge) fn heartbeat_of_node() -> Heartbeat {
    Heartbeat { interval: PING, timeout: SILENCE }
}

/// The lease of one connection.
pub(super) struct Lease {
    host: Host,
    state: RefCell<State>,
    /// Told when it became shorter.
    shortened: Notify,
}

struct State {
    length: Duration,
    /// When the last ping was sent that was answered.
    proven: Instant,
    /// Those that were not, by number, with when they were sent.
    sent: VecDeque<(u64, Instant)>,
    pings: u64,
}

impl State {
    fn ends(&self) -> Instant {
        self.proven + self.length
    }
}

impl Lease {
    /// It begins now.
    pub(super) fn new(host: &Host) -> Self {
        let state = State { length: LEASE, proven: host.now(), sent: VecDeque::new(), pings: 0 };
        Self { host: host.clone(), state: RefCell::new(state), shortened: Notify::new() }
    }

    /// The node has said how long leases are.
    pub(super) fn lasts(&self, length: Duration) {
        self.state.borrow_mut().length = length.min(LEASE);
        self.shortened.notify_one();
    }

    /// Nothing is done for this connection any more.
    pub(super) fn end(&self) {
        self.state.borrow_mut().length = Duration::ZERO;
    }

    pub(super) fn is_over(&self) -> bool {
        self.host.now() >= self.state.borrow().ends()
    }

    pub(super) fn ponged(&self, ping: u64) {
        let state = &mut *self.state.borrow_mut();
        let Some(at) = state.sent.iter().position(|(number, _)| *number == ping) else { return };
        let answered = state.sent.drain(..=at).next_back();
        state.proven = answered.map_or(state.proven, |(_, sent)| sent);
    }

    /// Pings. Ready when the lease is over.
    pub(super) async fn run(&self, outbound: &Outbound) {
        let mut next = self.host.now();
        loop {
            let now = self.host.now();
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
            select(pin!(self.host.sleep_until(ends.min(next))), pin!(self.shortened.notified())).await;
        }
    }
}
