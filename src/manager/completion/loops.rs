//! When a feedback loop has gone quiet, and what happens to one that does not.
//!
//! A hint that a loop may be quiet starts a *wave*: every task of the loop is asked whether it is at rest, and what it has
//! sent and received within the loop. Two waves that find all tasks at rest, everything sent also received, and the same
//! figures, have found the loop quiet: in the time between the last answer of the first wave and the first answer of the second
//! nothing was under way and nobody was at work, so nothing will be. One wave is not enough, for its answers are of different
//! moments. (Mattern 1987, the four counter method.)
//!
//! A wave that finds otherwise starts no other: whoever moved meanwhile hints again once it is at rest.

use std::collections::BTreeMap;

use super::{Command, Completion, Course, Deadline};
use crate::{
    job::{JobState, TaskId},
    protocol::{LoopId, LoopScan, TaskCommand},
};

/// For each task of a loop: the loop's position among the loops, and the task's among those of the loop.
pub(super) type Members = BTreeMap<TaskId, (usize, usize)>;

pub(super) fn members(loops: &[Vec<TaskId>]) -> Members {
    let positions = loops
        .iter()
        .enumerate()
        .flat_map(|(index, tasks)| tasks.iter().enumerate().map(move |(position, task)| (*task, (index, position))));
    positions.collect()
}

/// What is known of one loop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Loop {
    /// Answers to an earlier wave are stale.
    wave: u32,
    /// Those of the wave under way.
    answers: Option<Answers>,
    /// What the wave before found, if that was that the loop is quiet.
    quiet: Option<Vec<LoopScan>>,
    /// A hint came during a wave.
    again: bool,
    /// It was told to end, or cut.
    over: bool,
}

/// What the tasks of a loop have answered to one wave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Answers {
    /// In the order of the loop's tasks.
    scans: Vec<Option<LoopScan>>,
    /// So many have not answered.
    missing: usize,
}

impl Answers {
    fn new(scans: Vec<Option<LoopScan>>) -> Self {
        let missing = scans.iter().filter(|scan| scan.is_none()).count();
        Self { scans, missing }
    }

    fn put(&mut self, position: usize, scan: Option<LoopScan>) {
        let before = std::mem::replace(&mut self.scans[position], scan);
        self.missing += usize::from(scan.is_none());
        self.missing -= usize::from(before.is_none());
    }
}

impl Loop {
    /// Nothing is to be found out about it any more.
    fn give_up(&mut self) {
        *self = Self { wave: self.wave, over: true, ..Self::default() };
    }

    /// Whether a hint waits for the wave under way to end, and how many waves may follow that one without a further hint.
    #[cfg(test)]
    pub(super) fn outlook(&self) -> (bool, usize) {
        (self.again && !self.over, usize::from(self.answers.is_some() && self.quiet.is_none()))
    }
}

impl Completion {
    /// A task of the loop says that it may be quiet.
    pub(super) fn hear_quiet(&mut self, id: LoopId, out: &mut Vec<Command>) {
        let Some(watched) = self.loops.get_mut(id.index()).filter(|watched| !watched.over) else { return };
        if watched.answers.is_some() {
            watched.again = true;
        } else {
            self.start_wave(id, out);
        }
    }

    pub(super) fn hear_scan(&mut self, task: TaskId, id: LoopId, wave: u32, scan: LoopScan, out: &mut Vec<Command>) {
        let Some(watched) = self.loops.get_mut(id.index()).filter(|watched| watched.wave == wave) else { return };
        let member = self.members.get(&task).filter(|(index, _)| *index == id.index());
        let (Some(answers), Some((_, position))) = (&mut watched.answers, member) else { return };
        answers.put(*position, Some(scan));
        self.conclude_wave(id, out);
    }

    /// A task has ended: it has nothing more to say, and what it said last stands.
    pub(super) fn settle_waves(&mut self, ended: TaskId, out: &mut Vec<Command>) {
        let Some(&(index, position)) = self.members.get(&ended) else { return };
        let last = self.last_scan(ended);
        if let Some(answers) = &mut self.loops[index].answers {
            answers.put(position, last);
            self.conclude_wave(loop_id(index), out);
        }
    }

    /// What a task that has ended sent and received.
    fn last_scan(&self, task: TaskId) -> Option<LoopScan> {
        let report = self.tasks[task.index()].report.as_ref()?;
        Some(LoopScan { at_rest: true, ..report.looped })
    }

    fn start_wave(&mut self, id: LoopId, out: &mut Vec<Command>) {
        let watched = &mut self.loops[id.index()];
        watched.again = false;
        watched.quiet = None;
        self.ask(id, out);
    }

    fn ask(&mut self, id: LoopId, out: &mut Vec<Command>) {
        let setup = std::sync::Arc::clone(&self.setup);
        let members = &setup.loops[id.index()];
        let answers = members.iter().map(|&task| self.last_scan(task)).collect();
        let watched = &mut self.loops[id.index()];
        watched.wave += 1;
        watched.answers = Some(Answers::new(answers));
        let wave = watched.wave;
        self.command_tasks(TaskCommand::Scan { id, wave }, out);
    }

    /// If every task of the loop has answered: what the wave has found.
    fn conclude_wave(&mut self, id: LoopId, out: &mut Vec<Command>) {
        let watched = &mut self.loops[id.index()];
        let Some(answers) = watched.answers.take_if(|answers| answers.missing == 0) else { return };
        let scans: Vec<LoopScan> = answers.scans.into_iter().flatten().collect();
        let sum = |count: fn(&LoopScan) -> u64| scans.iter().map(count).map(u128::from).sum::<u128>();
        let quiet = scans.iter().all(|scan| scan.at_rest) && sum(|scan| scan.sent) == sum(|scan| scan.received);
        if !quiet {
            if watched.again {
                self.start_wave(id, out);
            }
            return;
        }
        match watched.quiet.take() {
            None => {
                watched.quiet = Some(scans);
                self.ask(id, out);
            }
            Some(before) if before == scans => {
                watched.over = true;
                self.command_tasks(TaskCommand::EndLoop { id }, out);
            }
            // Something moved in between, and whoever moved hints again.
            Some(_) if watched.again => self.start_wave(id, out),
            Some(_) => {}
        }
    }

    /// All that could leave the loop is unwanted: it ends like any upstream of a `take`.
    pub(super) fn close_loop(&mut self, id: LoopId, out: &mut Vec<Command>) {
        let Some(watched) = self.loops.get_mut(id.index()).filter(|watched| !watched.over) else { return };
        watched.give_up();
        self.command_tasks(TaskCommand::CloseLoop { id }, out);
    }

    /// The sources were told to end: loops have some time to go quiet.
    pub(super) fn limit_loops(&mut self, out: &mut Vec<Command>) {
        if self.loops.iter().any(|watched| !watched.over) {
            self.loops_deadline_armed = true;
            out.push(Command::Arm(Deadline::Loops));
        }
    }

    /// Nobody is to find out any more whether the loops are quiet.
    pub(super) fn release_loops(&mut self, out: &mut Vec<Command>) {
        self.give_loops_up();
        if self.loops_deadline_armed {
            self.loops_deadline_armed = false;
            out.push(Command::Disarm(Deadline::Loops));
        }
    }

    /// The time that loops had to go quiet is over.
    pub(super) fn cut_loops(&mut self, out: &mut Vec<Command>) {
        self.loops_deadline_armed = false;
        if self.state != JobState::Draining || self.course != Course::Onward {
            return;
        }
        for index in 0..self.loops.len() {
            if !self.loops[index].over {
                // A wave under way might still find the loop quiet, which is then no longer to be told so.
                self.loops[index].give_up();
                self.command_tasks(TaskCommand::CutLoop { id: loop_id(index) }, out);
            }
        }
    }

    fn give_loops_up(&mut self) {
        self.loops.iter_mut().for_each(Loop::give_up);
    }
}

fn loop_id(position: usize) -> LoopId {
    LoopId(u32::try_from(position).expect("a graph numbers its loops in 32 bits"))
}
