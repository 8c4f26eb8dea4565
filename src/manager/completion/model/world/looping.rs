//! Feedback loops of the world: batches that go round in them, and what their tasks say of that.
//!
//! The world keeps a ground truth of its own: how many batches are on each channel, and who is at work. Hints come from
//! whoever was the last at work, as from a worker, and at any other time too, as far as the budget goes: the rules must not
//! rely on a hint being true.

use super::{Action, Fault, Mail, TaskStage, World};
use crate::{
    manager::completion::task_id,
    protocol::{LoopId, LoopScan, TaskCommand},
};

/// The loop of a world, if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Looping {
    /// The task that the channels that close the loop lead to.
    start: usize,
    members: Vec<usize>,
    /// Of each channel of the graph; those that leave the loop or lead into it stay at zero.
    pub(super) channels: Vec<Inner>,
    pub(super) told: bool,
    pub(super) closed: bool,
    pub(super) cut: bool,
}

/// A channel within the loop, in batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Inner {
    pub(super) sent: u8,
    pub(super) taken: u8,
    pub(super) refused: u8,
}

impl Inner {
    pub(super) fn waiting(self) -> u8 {
        self.sent - self.taken - self.refused
    }
}

/// A task's part in the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Part {
    /// Batches that it has taken since it was last at rest.
    busy: u8,
    /// It was at rest when nothing more could enter by it.
    entered: bool,
    /// The wave that it was asked in.
    scan: Option<u32>,
}

impl World {
    /// Makes a loop of these tasks, which begins at the first of them.
    pub(super) fn close_loop(&mut self) {
        let setup = &self.machine.setup;
        let Some(members) = setup.loops.first() else { return };
        let members: Vec<usize> = members.iter().map(|task| task.index()).collect();
        let channels = vec![Inner::default(); setup.channels.len()];
        self.looping = Looping { start: members[0], members, channels, ..Looping::default() };
    }

    pub(in crate::manager::completion::model) fn looping_told(&self) -> bool {
        self.looping.told
    }

    pub(in crate::manager::completion::model) fn looping_closed(&self) -> bool {
        self.looping.closed
    }

    pub(in crate::manager::completion::model) fn looping_cut(&self) -> bool {
        self.looping.cut
    }

    fn is_inner(&self, channel: usize) -> bool {
        let channel = &self.machine.setup.channels[channel];
        let members = &self.looping.members;
        members.contains(&channel.from.index()) && members.contains(&channel.to.index())
    }

    pub(super) fn closes(&self, channel: usize) -> bool {
        self.is_inner(channel) && self.machine.setup.channels[channel].to.index() == self.looping.start
    }

    pub(super) fn inner(&self, channel: usize) -> Option<Inner> {
        self.is_inner(channel).then(|| self.looping.channels[channel])
    }

    fn inner_channels(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let channels = self.machine.setup.channels.iter().enumerate();
        channels
            .map(|(at, channel)| (at, channel.from.index(), channel.to.index()))
            .filter(|(at, ..)| self.is_inner(*at))
    }

    /// Whether nothing more can enter the loop by this task.
    fn is_shut(&self, task: usize) -> bool {
        let entries = self.machine.setup.channels.iter().enumerate();
        let mut entries = entries.filter(|(at, channel)| channel.to.index() == task && !self.is_inner(*at));
        entries.all(|(_, channel)| self.tasks[channel.from.index()].is_drained())
    }

    /// Whether the start of a loop may end, or a task of it has taken all that comes before the end; true for all others.
    pub(super) fn may_end(&self, task: usize) -> bool {
        let mut before = self.inner_channels().filter(|(at, _, to)| *to == task && !self.closes(*at));
        let told = task != self.looping.start || self.looping.told || self.takes_no_more();
        !self.looping.members.contains(&task) || told && before.all(|(at, ..)| self.looping.channels[at].waiting() == 0)
    }

    pub(super) fn is_cut(&self, task: usize) -> bool {
        self.looping.cut && self.looping.members.first() == Some(&task)
    }

    pub(super) fn begins_loop(&self, task: usize) -> bool {
        self.looping.members.first() == Some(&task)
    }

    pub(super) fn loop_actions(&self, actions: &mut Vec<Action>) {
        for (channel, from, to) in self.inner_channels() {
            let (producer, consumer) = (&self.tasks[from], &self.tasks[to]);
            let works = producer.looped.busy > 0 || !producer.looped.entered;
            let open = consumer.is_live() && !(self.takes_no_more() && self.closes(channel));
            if self.budget.trips > 0 && producer.stage == TaskStage::Running && works && open && !producer.holds() {
                actions.push(Action::Send { channel });
            }
            let held = consumer.holds() && self.closes(channel);
            if consumer.stage == TaskStage::Running && self.looping.channels[channel].waiting() > 0 && !held {
                actions.push(Action::Take { channel });
            }
        }
        for &task in &self.looping.members {
            let actor = &self.tasks[task];
            if actor.stage != TaskStage::Running {
                continue;
            }
            if actor.looped.busy > 0 || !actor.looped.entered && self.is_shut(task) {
                actions.push(Action::Rest { task });
            }
            if actor.looped.scan.is_some() {
                actions.push(Action::AnswerScan { task });
            }
            if self.budget.hints > 0 {
                actions.push(Action::Hint { task });
            }
            if self.budget.unwanted > 0 {
                actions.push(Action::Unwant { task });
            }
        }
    }

    pub(super) fn send(&mut self, channel: usize) {
        self.budget.trips -= 1;
        self.looping.channels[channel].sent += 1;
    }

    pub(super) fn take(&mut self, channel: usize) {
        self.looping.channels[channel].taken += 1;
        let to = self.machine.setup.channels[channel].to.index();
        self.tasks[to].looped.busy += 1;
    }

    pub(super) fn rest(&mut self, task: usize) {
        let shut = self.is_shut(task);
        let part = &mut self.tasks[task].looped;
        part.busy = 0;
        part.entered |= shut;
        self.hint_if_quiet(task);
    }

    pub(super) fn hint(&mut self, task: usize) {
        self.budget.hints -= 1;
        self.mail.insert(Mail::Quiet { task });
    }

    pub(super) fn unwant(&mut self, task: usize) {
        self.budget.unwanted -= 1;
        self.mail.insert(Mail::Unwanted { task });
    }

    fn takes_no_more(&self) -> bool {
        self.looping.cut || self.looping.closed
    }

    fn hint_if_quiet(&mut self, task: usize) {
        if self.is_quiet() {
            self.mail.insert(Mail::Quiet { task });
        }
    }

    /// The ground truth.
    fn is_quiet(&self) -> bool {
        let parts = self.looping.members.iter().map(|&task| self.tasks[task].looped);
        let under_way = self.looping.channels.iter().any(|channel| channel.waiting() > 0);
        !under_way && parts.into_iter().all(|part| part.busy == 0 && part.entered)
    }

    pub(super) fn answer_scan(&mut self, task: usize) {
        let wave = self.tasks[task].looped.scan.take().expect("enabled only while one is asked for");
        let LoopScan { at_rest, sent, received } = self.scan_of(task);
        self.mail.insert(Mail::Scanned { task, wave, at_rest, sent, received });
    }

    pub(super) fn scan_of(&self, task: usize) -> LoopScan {
        let part = self.tasks[task].looped;
        let sum = |counts: fn(Inner) -> u8, end: fn((usize, usize, usize)) -> usize| {
            let mine = self.inner_channels().filter(|channel| end(*channel) == task);
            mine.map(|(at, ..)| u64::from(counts(self.looping.channels[at]))).sum()
        };
        LoopScan {
            at_rest: part.busy == 0 && part.entered,
            sent: sum(|channel| channel.sent, |(_, from, _)| from),
            received: sum(|channel| channel.taken + channel.refused, |(_, _, to)| to),
        }
    }

    /// A task of the loop has ended, whichever way.
    pub(super) fn leave_loop(&mut self, task: usize) {
        if self.looping.members.contains(&task) {
            let before = std::mem::replace(&mut self.tasks[task].looped, Part { entered: true, ..Part::default() });
            // Whoever has nothing to give back hints at nothing.
            if before.busy > 0 || !before.entered {
                self.hint_if_quiet(task);
            }
        }
    }

    pub(super) fn command_loop(&mut self, command: TaskCommand) {
        match command {
            TaskCommand::Scan { wave, .. } => {
                for task in self.looping.members.clone() {
                    if self.tasks[task].is_live() {
                        self.tasks[task].looped.scan = Some(wave);
                    }
                }
            }
            TaskCommand::EndLoop { .. } => {
                let quiet = self.is_quiet();
                self.fault_if(!quiet || self.looping.told || self.takes_no_more(), Fault::EndedBusy);
                self.looping.told = true;
            }
            TaskCommand::CutLoop { .. } | TaskCommand::CloseLoop { .. } => {
                self.fault_if(self.looping.told || self.takes_no_more(), Fault::EndedBusy);
                if matches!(command, TaskCommand::CutLoop { .. }) {
                    self.looping.cut = true;
                } else {
                    self.looping.closed = true;
                }
                let closing: Vec<usize> =
                    self.inner_channels().map(|(at, ..)| at).filter(|at| self.closes(*at)).collect();
                for at in closing {
                    let channel = &mut self.looping.channels[at];
                    channel.refused += channel.waiting();
                }
            }
            _ => {}
        }
    }

    pub(super) fn deliver_scan(&mut self, mail: Mail) {
        let id = LoopId(0);
        let (task, event) = match mail {
            Mail::Quiet { task } => (task, crate::protocol::TaskEvent::LoopQuiet { id }),
            Mail::Unwanted { task } => (task, crate::protocol::TaskEvent::LoopUnwanted { id }),
            Mail::Scanned { task, wave, at_rest, sent, received } => {
                let scan = LoopScan { at_rest, sent, received };
                (task, crate::protocol::TaskEvent::Scanned { id, wave, scan })
            }
            _ => return,
        };
        self.tell_of(task_id(task).index(), event);
    }

    /// The loop's share of the rank. A wave is at most `wave` steps, and a hint starts two, now or after the one under way.
    pub(super) fn loop_rank(&self) -> usize {
        let members = self.looping.members.len();
        let wave = 2 * members + 1;
        let known = self.machine.loops.first().map_or((false, 0), |watched| watched.outlook());
        let mail = self.mail.iter().map(|mail| match mail {
            // One step for the delivery is counted for every mail.
            Mail::Quiet { .. } => 2 * wave,
            _ => 0,
        });
        let parts = self.looping.members.iter().map(|&task| {
            let part = self.tasks[task].looped;
            let waits = 2 * usize::from(part.scan.is_some());
            waits + 6 * wave * (usize::from(part.busy) + usize::from(!part.entered))
        });
        let under_way: usize = self.looping.channels.iter().map(|channel| usize::from(channel.waiting())).sum();
        usize::from(self.budget.trips) * 10 * wave
            + usize::from(self.budget.hints) * (2 * wave + 3)
            + usize::from(self.budget.unwanted) * 2
            + under_way * 8 * wave
            + mail.sum::<usize>()
            + parts.sum::<usize>()
            + usize::from(known.0) * 2 * wave
            + known.1 * wave
    }
}
