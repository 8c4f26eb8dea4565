//! A running task: a head that supplies batches and the chain of stages they pass.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Reach, TaskState},
        loops::LoopPart,
        mark::Mark,
    },
    protocol::{TaskCommand, Wait},
};

/// How long a task works before it lets other tasks of its thread, and messages to itself, have their turn.
pub(super) const BUDGET: Duration = Duration::from_millis(1);

/// Where the items of a task come from.
pub(crate) trait Head<T> {
    /// Puts at most `max` items into `into`, which is empty, or yields a mark. Says in `TaskState::wait` what it
    /// waits for when it is pending.
    fn poll_batch(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<Result<Input, Failure>>;

    /// Whether nothing more can enter the loop, if it is part of one, by this head.
    fn is_entered(&self) -> bool {
        true
    }

    /// Has effect on sources and on starts of loops. To a source, `Stop` makes the next input an end, `Hold` a mark, after
    /// which it waits until `Resume`. `Cancel` never gets here.
    fn command(&mut self, command: TaskCommand);

    /// Downstream wants no more. The next input is an end.
    fn close(&mut self);

    /// Writes the accounts into the task's report.
    fn settle(&mut self, ending: Ending);

    /// Batches waiting.
    fn queued(&self) -> usize {
        0
    }
}

/// What a head supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Items,
    Mark(Mark),
}

/// A task without its item types.
pub(crate) trait Task {
    /// Works for about [`BUDGET`]. Ready when the end of the stream has left the task.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>;
    fn command(&mut self, command: TaskCommand);
    /// The epoch of a `Hold` mark that has left the task since the last call.
    fn take_held(&mut self) -> Option<u32>;
    fn settle(&mut self, ending: Ending);
}

pub(crate) struct ChainTask<T> {
    state: Rc<TaskState>,
    head: Box<dyn Head<T>>,
    chain: BoxStage<T>,
    buffer: Vec<T>,
    /// Items per step: as many as are worked off in a fraction of [`BUDGET`], so that slow user code is interrupted
    /// after few items and fast code gets whole batches.
    quantum: usize,
    passing: Option<Mark>,
    held: Option<u32>,
    /// The newest hold that was ordered or came in, and the newest that was resumed: a mark may come after either.
    newest_hold: u32,
    resumed_hold: u32,
    /// The head had nothing when it was asked last.
    starved: bool,
    /// The head was told that nothing more is wanted.
    closed: bool,
}

impl<T> ChainTask<T> {
    pub fn new(state: &Rc<TaskState>, head: Box<dyn Head<T>>, chain: BoxStage<T>) -> Self {
        let quantum = state.limits.batch_items.clamp(1, 16);
        Self {
            state: Rc::clone(state),
            head,
            chain,
            buffer: Vec::new(),
            quantum,
            passing: None,
            held: None,
            newest_hold: 0,
            resumed_hold: 0,
            starved: false,
            closed: false,
        }
    }

    /// Takes one batch or mark through the chain.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Progress, Failure>> {
        self.starved = false;
        std::task::ready!(self.chain.poll(cx))?;
        match self.passing.take() {
            Some(Mark::End) => return Poll::Ready(Ok(Progress::Ended)),
            Some(Mark::Hold(epoch)) => {
                self.held = Some(epoch);
                return Poll::Ready(Ok(Progress::More));
            }
            None => {}
        }
        if self.is_done_early() {
            self.closed = true;
            self.head.close();
        }
        let input = self.head.poll_batch(cx, &mut self.buffer, self.quantum);
        self.starved = input.is_pending();
        match std::task::ready!(input)? {
            // A source may come back empty-handed without having ended.
            Input::Items if self.buffer.is_empty() => {}
            Input::Items => {
                self.state.counters.took(self.buffer.len());
                self.chain.batch(&mut self.buffer)?;
            }
            Input::Mark(mark) => {
                if let Mark::Hold(epoch) = mark {
                    self.newest_hold = self.newest_hold.max(epoch);
                    self.state.holding.set(epoch > self.resumed_hold);
                }
                self.chain.mark(mark)?;
                self.passing = Some(mark);
            }
        }
        Poll::Ready(Ok(Progress::More))
    }

    /// The task cannot go on: passes on what was held back only to fill batches. A failure, or newly blocked output, shows at
    /// the next poll, for which the stage has registered the waker. Ready if there is something to do after all.
    fn lull(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let (wait, sent) = (self.state.wait.get(), self.sent_in_loop());
        self.chain.flush(Lull::Idle)?;
        std::task::ready!(self.chain.poll(cx))?;
        // It was this poll that saw a consumer close, and there may be no other wake-up; or what was passed on went round to
        // this very task.
        if self.is_done_early() || (self.starved && self.sent_in_loop() != sent) {
            return Poll::Ready(Ok(()));
        }
        let owes = self.chain.owes();
        self.state.wait.set(if owes && wait == Wait::Input { Wait::Own } else { wait });
        if !owes {
            self.rest();
        }
        Poll::Pending
    }

    /// Whether nothing more is wanted, and the head has not been told yet.
    fn is_done_early(&self) -> bool {
        !self.closed && !self.chain.wants_more(Reach::Anywhere)
    }

    fn sent_in_loop(&self) -> u64 {
        self.state.looped.as_ref().map_or(0, LoopPart::sent_so_far)
    }

    /// All that came in has been worked off and passed on, and nothing more may come out of it: a task of a loop is at rest.
    fn rest(&self) {
        if let Some(looped) = &self.state.looped
            && self.starved
        {
            looped.rest(self.head.is_entered());
        }
    }

    /// Notes whether items may leave the loop by this task.
    fn look_out(&self) {
        if let Some(looped) = &self.state.looped {
            looped.leads_out(self.chain.wants_more(Reach::BeyondLoop));
        }
    }

    fn adapt(&mut self, took: Duration) {
        if took < BUDGET / 8 {
            self.quantum = (self.quantum * 2).min(self.state.limits.batch_items.max(1));
        } else if took > BUDGET / 2 {
            self.quantum = (self.quantum / 2).max(1);
        }
    }
}

enum Progress {
    More,
    Ended,
}

impl<T> Task for ChainTask<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // Before and after: within one turn an exit may be found open and be shut again.
        self.look_out();
        let started = self.state.context.host.now();
        let mut now = started;
        self.state.counters.starts_working(now);
        let result = loop {
            match self.step(cx) {
                Poll::Ready(Ok(Progress::More)) => {}
                Poll::Ready(Ok(Progress::Ended)) => break Poll::Ready(Ok(())),
                Poll::Ready(Err(failure)) => break Poll::Ready(Err(failure)),
                Poll::Pending => match self.lull(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(failure)) => break Poll::Ready(Err(failure)),
                    Poll::Pending => {
                        self.state.counters.waits_for(self.state.wait.get(), self.state.context.host.now());
                        break Poll::Pending;
                    }
                },
            }
            let after = self.state.context.host.now();
            self.adapt(after - now);
            now = after;
            if now - started >= BUDGET {
                // A task that is always busy still passes on its partial batches once a budget.
                if let Err(failure) = self.chain.flush(Lull::Turn) {
                    break Poll::Ready(Err(failure));
                }
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
        };
        self.look_out();
        self.state.counters.put(self.state.items_out.get());
        self.state.counters.queued(self.head.queued());
        result
    }

    fn command(&mut self, command: TaskCommand) {
        match command {
            TaskCommand::Hold { epoch } => self.newest_hold = self.newest_hold.max(epoch),
            TaskCommand::Resume | TaskCommand::Stop => {
                self.resumed_hold = self.newest_hold;
                self.state.holding.set(false);
            }
            _ => {}
        }
        self.head.command(command);
    }

    fn take_held(&mut self) -> Option<u32> {
        self.held.take()
    }

    fn settle(&mut self, ending: Ending) {
        self.head.settle(ending);
        self.chain.settle(ending);
        if let Some(looped) = &self.state.looped {
            looped.leave();
        }
        self.state.counters.put(self.state.items_out.get());
        self.state.counters.queued(0);
        self.state.counters.ended(self.state.context.host.now());
    }
}

/// The course of a source: what `stop`, `pause` and `take` make of it. Heads of sources share it.
#[derive(Debug, Default)]
pub(crate) struct Course {
    stopped: bool,
    closed: bool,
    announce: Option<u32>,
    holding: bool,
    ended: bool,
}

impl Course {
    pub fn command(&mut self, command: TaskCommand) {
        match command {
            TaskCommand::Stop => self.stopped = true,
            TaskCommand::Hold { epoch } => {
                self.announce = Some(epoch);
                self.holding = true;
            }
            TaskCommand::Resume => {
                self.announce = None;
                self.holding = false;
            }
            _ => {}
        }
    }

    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What the head does next regardless of its items: `None` to go on and fetch some.
    ///
    /// A source ended by `Stop` counts as cut short, unless nobody downstream wanted more anyway.
    pub fn next(&mut self, task: &TaskState) -> Option<Poll<Input>> {
        if self.ended {
            return Some(Poll::Pending);
        }
        if self.closed {
            return Some(Poll::Ready(self.end()));
        }
        if self.stopped {
            task.cut_short();
            return Some(Poll::Ready(self.end()));
        }
        if let Some(epoch) = self.announce.take() {
            return Some(Poll::Ready(Input::Mark(Mark::Hold(epoch))));
        }
        if self.holding {
            task.wait.set(Wait::Resume);
            return Some(Poll::Pending);
        }
        None
    }

    pub fn end(&mut self) -> Input {
        self.ended = true;
        Input::Mark(Mark::End)
    }
}
