//! Feedback loops: which tasks are in one, and when it has gone quiet.
//!
//! A loop has no end of its own: the end of the stream would have to come out of itself. It ends once it is *quiet*: nothing
//! more can enter it, every task of it is at rest (it waits for input and owes nothing: no call in flight, no timer set), and
//! no batch is on its way within it.
//!
//! That is found out in two steps. Within this process each batch on its way, and each task that is not at rest, holds a
//! token of the loop's [`LoopWatch`]; the task that gives the last one back *hints* to the JobSupervisor. The supervisor takes the
//! hint for no more than that, for it speaks of one process: it asks every task whether it is at rest and how many batches it
//! has sent and received within the loop, twice, and only if both times all were at rest, what was sent had been received,
//! and nothing had moved in between, it ends the loop. That is the four counter method of Mattern (1987), "Algorithms for
//! distributed termination detection".

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    dataplane::channel::Place,
    protocol::{LoopId, LoopScan},
};

/// What the tasks of a loop share within a process.
#[derive(Debug)]
pub(crate) struct LoopWatch {
    tokens: AtomicUsize,
    /// Tasks by which items may yet leave the loop.
    exits: AtomicUsize,
    /// A task led out of the loop once and does so no longer. Where none ever did, the loop runs for what its closures do.
    shut: AtomicBool,
    /// It was found quiet and told to end: nothing that comes round now can go round again.
    ended: AtomicBool,
}

impl LoopWatch {
    pub fn new(tasks: usize) -> Self {
        // One for each task, until it has started and is at rest for the first time with nothing left to enter by it.
        let exits = AtomicUsize::new(tasks);
        Self { tokens: AtomicUsize::new(tasks), exits, shut: AtomicBool::new(false), ended: AtomicBool::new(false) }
    }

    /// Takes a token for a batch before it is sent: its consumer could else give the token back first.
    pub fn take_token(&self) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether those were the last ones.
    fn give_back(&self, tokens: usize) -> bool {
        // `AcqRel`: the thread that gives back the last token sees all that was done under the others.
        tokens > 0 && self.tokens.fetch_sub(tokens, Ordering::AcqRel) == tokens
    }

    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// A loop, as the plan has it for one of its tasks.
#[derive(Debug, Clone)]
pub(crate) struct LoopPlan {
    pub id: LoopId,
    /// The channels that lie within the loop; for those that close it, the name of the future they fill.
    pub channels: Arc<HashMap<usize, Option<Arc<str>>>>,
    pub items_max: usize,
}

impl LoopPlan {
    /// What this channel is to a task of the loop that it leads to.
    pub fn place(&self, channel: usize) -> Place {
        match self.channels.get(&channel) {
            None => Place::Entry,
            Some(None) => Place::Inner,
            Some(Some(_)) => Place::Closing,
        }
    }
}

/// One task's part in a loop, as it runs.
#[derive(Debug)]
pub(crate) struct LoopPart {
    pub plan: LoopPlan,
    pub watch: Arc<LoopWatch>,
    sent: Cell<u64>,
    received: Cell<u64>,
    /// Tokens of this task's own.
    tokens: Cell<usize>,
    /// The token of the beginning has been given back.
    entered: Cell<bool>,
    hint: Cell<bool>,
    exit: Cell<Exit>,
    unwanted: Cell<bool>,
}

/// Whether items may leave the loop by a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Unknown,
    Open,
    Shut,
}

impl LoopPart {
    pub fn new(plan: LoopPlan, watch: Arc<LoopWatch>) -> Self {
        Self {
            plan,
            watch,
            sent: Cell::new(0),
            received: Cell::new(0),
            tokens: Cell::new(0),
            entered: Cell::new(false),
            hint: Cell::new(false),
            exit: Cell::new(Exit::Unknown),
            unwanted: Cell::new(false),
        }
    }

    /// A batch whose token was taken is on its way.
    pub fn sent(&self) {
        self.sent.set(self.sent.get() + 1);
    }

    /// How many batches were sent within the loop so far.
    pub fn sent_so_far(&self) -> u64 {
        self.sent.get()
    }

    /// The token of a batch that found no room was taken for nothing.
    pub fn not_sent(&self) {
        self.give_back(1);
    }

    /// A batch has come in, and its token with it.
    pub fn received(&self) {
        self.received.set(self.received.get() + 1);
        self.tokens.set(self.tokens.get() + 1);
    }

    /// Batches were thrown away in front of this task.
    pub fn refused(&self, batches: usize) {
        self.received.set(self.received.get() + batches as u64);
        self.give_back(batches);
    }

    /// The task waits for input and owes nothing. `entered`: nothing more can enter the loop by it.
    pub fn rest(&self, entered: bool) {
        let first = usize::from(entered && !self.entered.replace(entered));
        self.give_back(self.tokens.take() + first);
    }

    /// Whether something outside of the loop still wants what comes out of this task.
    pub fn leads_out(&self, open: bool) {
        let before = self.exit.get();
        if before == Exit::Shut || open {
            self.exit.set(if before == Exit::Shut { before } else { Exit::Open });
            return;
        }
        self.exit.set(Exit::Shut);
        let watch = &self.watch;
        if before == Exit::Open {
            watch.shut.store(true, Ordering::Relaxed);
        }
        // `AcqRel`: the last one sees whether any of them was open.
        let last = watch.exits.fetch_sub(1, Ordering::AcqRel) == 1;
        self.unwanted.set(last && watch.shut.load(Ordering::Relaxed));
    }

    /// Whether the supervisor is to be told that nobody wants what comes out of the loop any more.
    pub fn take_unwanted(&self) -> bool {
        self.unwanted.take()
    }

    /// The task has ended, whichever way.
    pub fn leave(&self) {
        self.rest(true);
        self.leads_out(false);
    }

    pub fn scan(&self) -> LoopScan {
        let at_rest = self.entered.get() && self.tokens.get() == 0;
        LoopScan { at_rest, sent: self.sent.get(), received: self.received.get() }
    }

    /// Whether the supervisor is to be told that the loop may be quiet.
    pub fn take_hint(&self) -> bool {
        self.hint.take()
    }

    fn give_back(&self, tokens: usize) {
        if self.watch.give_back(tokens) {
            self.hint.set(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(watch: &Arc<LoopWatch>) -> LoopPart {
        let channels = Arc::new(HashMap::new());
        LoopPart::new(LoopPlan { id: LoopId(0), channels, items_max: 1 }, Arc::clone(watch))
    }

    #[test]
    fn the_hint_comes_from_whoever_gives_the_last_token_back() {
        let watch = Arc::new(LoopWatch::new(2));
        let (a, b) = (part(&watch), part(&watch));
        a.rest(false);
        assert!(!a.scan().at_rest, "something may still enter by it");
        watch.take_token();
        a.sent();
        a.rest(true);
        b.rest(true);
        assert!(!a.take_hint() && !b.take_hint(), "a batch is on its way");
        b.received();
        assert!(!b.scan().at_rest);
        b.rest(true);
        assert!(b.take_hint() && !a.take_hint());
        assert_eq!(a.scan(), LoopScan { at_rest: true, sent: 1, received: 0 });
        assert_eq!(b.scan(), LoopScan { at_rest: true, sent: 0, received: 1 });
    }

    #[test]
    fn what_is_thrown_away_in_front_of_a_task_is_no_longer_on_its_way() {
        let watch = Arc::new(LoopWatch::new(1));
        let task = part(&watch);
        watch.take_token();
        task.sent();
        task.leave();
        assert!(!task.take_hint());
        task.refused(1);
        assert!(task.take_hint());
        assert_eq!(task.scan(), LoopScan { at_rest: true, sent: 1, received: 1 });
    }

    #[test]
    fn a_loop_is_unwanted_once_its_last_exit_is_shut() {
        let watch = Arc::new(LoopWatch::new(3));
        let (a, b, c) = (part(&watch), part(&watch), part(&watch));
        a.leads_out(false);
        b.leads_out(true);
        b.leads_out(false);
        assert!(!b.take_unwanted(), "it is not known yet whether the third task leads out");
        c.leads_out(false);
        assert!(c.take_unwanted() && !a.take_unwanted());
    }

    #[test]
    fn a_loop_that_nothing_ever_leaves_is_wanted() {
        let watch = Arc::new(LoopWatch::new(1));
        let task = part(&watch);
        task.leads_out(false);
        assert!(!task.take_unwanted());
    }
}
