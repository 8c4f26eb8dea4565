//! A chain of operators as it runs: stages that pass batches on, under one task.
//!
//! A batch passes a stage as one call over a `Vec`, so dynamic dispatch is paid once per batch and the loops inside
//! are monomorphic. A stage never blocks: what it cannot pass on it keeps, and says so through [`Stage::poll`], upon
//! which the task takes no further input. What a stage keeps is bounded by what one batch makes of it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    dataplane::{
        context::TaskContext,
        counters::SharedCounters,
        error::TaskError,
        loops::{LoopPart, LoopPlan},
        mark::Mark,
        wide::{append, widely},
        wiring::Wiring,
    },
    job::{DeadLetter, ErrorPolicy, FailureCause, Limits, message_of},
    protocol::{OperatorAccount, Received, Sent, TaskReport, Wait},
};

/// Why a task cannot go on. Boxed, because it is returned by value from every batch.
#[derive(Debug)]
pub(crate) struct Failure(pub Box<FailureCause>);

impl From<FailureCause> for Failure {
    fn from(cause: FailureCause) -> Self {
        Self(Box::new(cause))
    }
}

/// Whether what is left in a task is kept or thrown away when it settles its accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The end of the stream has passed.
    Drained,
    /// Cancelled or failed.
    Discarded,
}

/// Why a task does not go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lull {
    /// It is the turn of other tasks on its thread.
    Turn,
    /// It has no input.
    Idle,
}

/// Who is asked whether further items are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everyone.
    Anywhere,
    /// Whoever is outside of the feedback loop that the task is part of.
    BeyondLoop,
}

/// One operator of a running chain, with everything downstream of it in the same task.
pub(crate) trait Stage<T> {
    /// Takes all of `items` and leaves it empty. Called only after [`poll`](Self::poll) was ready, but then any number
    /// of times: an operator in front may make several batches of the one it was given.
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure>;

    /// Takes a mark, behind all items taken before. Called only after [`poll`](Self::poll) was ready.
    fn mark(&mut self, mark: Mark) -> Result<(), Failure>;

    /// Ready when another batch or mark can be taken; after a mark, only when it and all before it have left the task.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>;

    /// Passes on what is held back only to fill batches, because the task will not go on at once.
    fn flush(&mut self, lull: Lull) -> Result<(), Failure>;

    /// False once every further item would be thrown away, as far as those concerned can say whom `reach` names.
    fn wants_more(&self, reach: Reach) -> bool;

    /// Whether something may still come out although nothing comes in: a call is in flight, a timer is set. What comes
    /// out only with a mark does not count.
    fn owes(&self) -> bool;

    /// Writes the accounts into the task's report.
    fn settle(&mut self, ending: Ending);
}

pub(crate) type BoxStage<T> = Box<dyn Stage<T>>;

/// Makes something that lives in a task, on the task's own thread.
pub(crate) type Recipe<R> = Box<dyn FnOnce(&Rc<TaskState>) -> R + Send>;

/// Makes the recipe of the stage with the given instance number.
pub(crate) type StageFactory<T> = Box<dyn Fn(usize) -> Recipe<BoxStage<T>>>;

/// What the stages of one task share.
#[derive(Debug)]
pub(crate) struct TaskState {
    pub context: Rc<TaskContext>,
    pub operators: Arc<[OperatorInfo]>,
    pub limits: Arc<Limits>,
    pub counters: Arc<SharedCounters>,
    /// The operator whose user code ran last, and the position of its item: what a panic is attributed to.
    at: Cell<(usize, u64)>,
    /// Why the task last returned `Pending`; written by the stage or head that had to wait.
    pub wait: Cell<Wait>,
    /// The job is being paused, and the mark that says so is in the chain or has left it: no stage may give anything out of
    /// its own accord.
    pub holding: Cell<bool>,
    /// Its part in a feedback loop, if it is in one.
    pub looped: Option<LoopPart>,
    /// Where the task finds what it shares with others, when it is made.
    pub wiring: Arc<Wiring>,
    pub items_out: Cell<u64>,
    dead: RefCell<Vec<DeadLetter>>,
    dead_count: Cell<u64>,
    report: RefCell<ReportParts>,
}

#[derive(Debug, Clone)]
pub(crate) struct OperatorInfo {
    pub name: String,
    pub policy: ErrorPolicy,
}

#[derive(Debug, Default)]
struct ReportParts {
    cut_short: bool,
    received: Vec<(usize, Received)>,
    sent: Vec<(usize, Sent)>,
    operators: Vec<OperatorAccount>,
}

impl TaskState {
    pub fn new(
        context: TaskContext,
        operators: Arc<[OperatorInfo]>,
        limits: Arc<Limits>,
        counters: Arc<SharedCounters>,
        looped: Option<LoopPlan>,
        wiring: Arc<Wiring>,
    ) -> Self {
        let looped = looped.map(|plan| {
            let watch = wiring.loop_watch(plan.id);
            LoopPart::new(plan, watch)
        });
        let report = ReportParts { operators: vec![OperatorAccount::default(); operators.len()], ..Default::default() };
        Self {
            context: Rc::new(context),
            operators,
            limits,
            counters,
            at: Cell::new((0, 0)),
            wait: Cell::default(),
            holding: Cell::new(false),
            looped,
            wiring,
            items_out: Cell::new(0),
            dead: RefCell::default(),
            dead_count: Cell::new(0),
            report: RefCell::new(report),
        }
    }

    pub fn put_out(&self, items: usize) {
        self.items_out.set(self.items_out.get() + items as u64);
    }

    pub fn cut_short(&self) {
        self.report.borrow_mut().cut_short = true;
    }

    pub fn report_received(&self, channel: usize, received: Received) {
        self.report.borrow_mut().received.push((channel, received));
    }

    pub fn report_sent(&self, channel: usize, sent: Sent) {
        self.report.borrow_mut().sent.push((channel, sent));
    }

    /// The report, with channels in the order of the graph.
    pub fn take_report(&self) -> TaskReport {
        let mut parts = std::mem::take(&mut *self.report.borrow_mut());
        parts.received.sort_unstable_by_key(|(channel, _)| *channel);
        parts.sent.sort_unstable_by_key(|(channel, _)| *channel);
        TaskReport {
            cut_short: parts.cut_short,
            received: parts.received.into_iter().map(|(_, received)| received).collect(),
            sent: parts.sent.into_iter().map(|(_, sent)| sent).collect(),
            operators: parts.operators,
            looped: self.looped.as_ref().map(LoopPart::scan).unwrap_or_default(),
            counters: None,
        }
    }

    /// The cause to report for a panic that was caught around a step of this task.
    pub fn panicked(&self, message: String) -> FailureCause {
        let (operator, position) = self.at.get();
        let operator = self.operators.get(operator).map_or_else(|| "?".to_owned(), |info| info.name.clone());
        FailureCause::OperatorPanicked { operator, instance: self.context.instance(), position, message }
    }

    fn bury(&self, letter: DeadLetter) {
        self.dead_count.set(self.dead_count.get() + 1);
        let mut dead = self.dead.borrow_mut();
        if dead.len() >= self.limits.dead_letters_max {
            // Only the newest are kept; within one step the exact order of eviction shows nowhere else.
            dead.remove(0);
        }
        if self.limits.dead_letters_max > 0 {
            dead.push(letter);
        }
    }

    /// Dead letters since the last call.
    pub fn take_dead(&self) -> Option<(u64, Vec<DeadLetter>)> {
        let count = self.dead_count.replace(0);
        (count > 0).then(|| (count, self.dead.take()))
    }
}

/// One operator's bookkeeping: its accounts, its error policy, and where its user code is.
#[derive(Debug)]
pub(crate) struct Meter {
    pub task: Rc<TaskState>,
    operator: usize,
    pub skips: bool,
    pub account: OperatorAccount,
}

impl Meter {
    pub fn new(task: &Rc<TaskState>, operator: usize) -> Self {
        let skips = task.operators[operator].policy == ErrorPolicy::Skip;
        Self { task: Rc::clone(task), operator, skips, account: OperatorAccount::default() }
    }

    /// Counts `items` as received and returns the cursor that follows user code through them.
    pub fn receive(&mut self, items: usize) -> Cursor {
        let before = self.account.received;
        self.account.received += items as u64;
        self.cursor(before)
    }

    /// A cursor in front of the item at position `before + 1`.
    pub fn cursor(&self, before: u64) -> Cursor {
        Cursor { task: Rc::clone(&self.task), operator: self.operator, position: before }
    }

    /// Says that user code of this operator runs, with no item in hand.
    pub fn enter(&self) {
        self.task.at.set((self.operator, 0));
    }

    pub fn name(&self) -> &str {
        &self.task.operators[self.operator].name
    }

    pub fn failed(&self, position: u64, error: &TaskError) -> Failure {
        self.failed_with(position, error.message())
    }

    pub fn failed_with(&self, position: u64, message: String) -> Failure {
        let (operator, instance) = (self.name().to_owned(), self.task.context.instance());
        FailureCause::Operator { operator, instance, position, message }.into()
    }

    pub fn panicked(&self, position: u64, message: String) -> Failure {
        let (operator, instance) = (self.name().to_owned(), self.task.context.instance());
        FailureCause::OperatorPanicked { operator, instance, position, message }.into()
    }

    /// Sets the item at `position` aside.
    pub fn bury(&mut self, position: u64, cause: String) {
        self.account.dead_lettered += 1;
        let (operator, instance) = (self.name().to_owned(), self.task.context.instance());
        self.task.bury(DeadLetter { operator, instance, position, cause });
    }

    /// Runs user code for one item under the policy *skip*: an error or a panic buries the item.
    pub fn attempt<R>(&mut self, position: u64, code: impl FnOnce() -> Result<R, TaskError>) -> Option<R> {
        match catch(code) {
            Ok(Ok(result)) => {
                self.account.processed += 1;
                Some(result)
            }
            Ok(Err(error)) => {
                self.bury(position, error.message());
                None
            }
            Err(panic) => {
                self.bury(position, panic);
                None
            }
        }
    }

    /// Hands in the account. Only a task that was cut off may have items that are neither processed nor set aside;
    /// when the end has passed, a difference is a bug, and the completion rules shall see it.
    pub fn settle(&mut self, ending: Ending) {
        let account = &mut self.account;
        if ending == Ending::Discarded {
            account.discarded = account.received.saturating_sub(account.processed + account.dead_lettered);
        }
        self.task.report.borrow_mut().operators[self.operator] = *account;
    }
}

/// Follows user code through the items of a batch, so that a panic can be attributed.
///
/// The position is written back once, when the cursor is dropped: at the end of the batch or while unwinding.
pub(crate) struct Cursor {
    task: Rc<TaskState>,
    operator: usize,
    pub position: u64,
}

impl Cursor {
    #[inline(always)]
    pub fn advance(&mut self) {
        self.position += 1;
    }

    /// Counts for the cursor, within a loop that is to be fast.
    pub fn steps(&mut self) -> Steps<'_> {
        Steps { position: self.position, of: &mut self.position }
    }
}

/// The position of a [`Cursor`] in a register. To drop a cursor takes a call, which needs its address: so a compiler may leave it in
/// memory throughout.
pub(crate) struct Steps<'a> {
    position: u64,
    of: &'a mut u64,
}

impl Steps<'_> {
    #[inline(always)]
    pub fn advance(&mut self) {
        self.position += 1;
    }
}

impl Drop for Steps<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.of = self.position;
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.task.at.set((self.operator, self.position));
    }
}

/// Runs `code` and turns a panic into its message.
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    // The state a panic may leave inconsistent is never used again: the task or the item it belongs to is given up.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)).map_err(|payload| panic_message(&*payload))
}

/// Maps all of `items` into `out`. For a panic, tells which item it was, from 1, and the message.
///
/// There is no counter in the loop, so that it vectorises: how many results were written is how far it came.
pub(crate) fn map_batch<T, U>(
    items: &mut Vec<T>,
    out: &mut Vec<U>,
    f: impl FnMut(T) -> U,
) -> Result<(), (u64, String)> {
    let before = out.len();
    let count = items.len();
    catch(|| widely(|| append(out, count, items.drain(..).map(f))))
        .map_err(|panic| ((out.len() - before) as u64 + 1, panic))
}

/// The text of a caught panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "panicked with a value that is not text".to_owned()
    }
}

impl TaskError {
    pub(crate) fn message(&self) -> String {
        message_of(self.as_error())
    }
}
