//! Feedback loops: what ends them, and what is done about those that do not end.

use super::*;
use crate::protocol::{LoopId, LoopScan};

/// Two loops of a task each.
fn two_loops() -> Job {
    Job::running_as(Setup { autostop: true, loops: vec![vec![TaskId(0)], vec![TaskId(1)]], ..setup(2, 0) })
}

fn id(position: u32) -> LoopId {
    LoopId(position)
}

impl Job {
    /// Answers a wave of questions about the loop of this task.
    fn answer(&mut self, task: u32, wave: u32, scan: LoopScan) -> &mut Self {
        self.task(task, TaskEvent::Scanned { id: id(task), wave, scan })
    }

    /// What tasks were told of loops since this was asked last.
    fn told(&mut self) -> Vec<TaskCommand> {
        let commands = self.taken().into_iter().filter_map(|command| match command {
            Command::Order { order: WorkerOrder::CommandTasks { command }, .. } => Some(command),
            _ => None,
        });
        commands.filter(|command| *command != TaskCommand::Stop).collect()
    }

    /// Has two waves find the loop of this task quiet.
    fn find_quiet(&mut self, task: u32) -> &mut Self {
        let quiet = LoopScan { at_rest: true, sent: 3, received: 3 };
        self.task(task, TaskEvent::LoopQuiet { id: id(task) });
        assert_eq!(self.told(), [TaskCommand::Scan { id: id(task), wave: 1 }]);
        self.answer(task, 1, quiet);
        assert_eq!(self.told(), [TaskCommand::Scan { id: id(task), wave: 2 }]);
        self.answer(task, 2, quiet)
    }
}

#[test]
fn a_loop_ends_after_two_waves_that_find_the_same() {
    let mut job = two_loops();
    job.find_quiet(0);
    assert_eq!(job.told(), [TaskCommand::EndLoop { id: id(0) }]);
}

#[test]
fn a_loop_that_moved_between_two_waves_goes_on() {
    let mut job = two_loops();
    job.task(0, TaskEvent::LoopQuiet { id: id(0) }).answer(0, 1, LoopScan { at_rest: true, sent: 3, received: 3 });
    job.told();
    job.answer(0, 2, LoopScan { at_rest: true, sent: 4, received: 4 });
    assert_eq!(job.told(), [], "whoever moved hints again");
}

/// One that had been told to end was cut as well, and the job read `Stopped` although nothing had been.
#[test]
fn only_loops_that_are_not_quiet_are_cut() {
    let mut job = two_loops();
    job.find_quiet(0).tell(Event::Stop);
    assert!(job.told().contains(&TaskCommand::EndLoop { id: id(0) }));
    job.tell(Event::Elapsed(Deadline::Loops));
    assert_eq!(job.told(), [TaskCommand::CutLoop { id: id(1) }]);
}

#[test]
fn a_loop_that_nobody_wants_anything_of_is_closed_once() {
    let mut job = two_loops();
    job.task(1, TaskEvent::LoopUnwanted { id: id(1) }).task(1, TaskEvent::LoopUnwanted { id: id(1) });
    assert_eq!(job.told(), [TaskCommand::CloseLoop { id: id(1) }]);
    job.task(1, TaskEvent::LoopQuiet { id: id(1) });
    assert_eq!(job.told(), []);
}

/// Each end counted all tasks anew, and searched all loops for the task.
#[test]
fn a_thousand_tasks_are_counted_as_they_are_held_and_end() {
    let scan = |wave| TaskCommand::Scan { id: id(0), wave };
    let members: Vec<TaskId> = [3, 500, 998].map(TaskId).into();
    let mut job = Job::running_as(Setup { autostop: true, loops: vec![members], ..setup(1000, 0) });
    job.tell(Event::Pause);
    for task in (0..1000).step_by(2) {
        job.task(task, TaskEvent::Held { epoch: 1 });
    }
    assert!(job.machine.tasks_are_counted());
    job.task(500, TaskEvent::LoopQuiet { id: id(0) });
    for task in 0..999 {
        assert_ne!(job.state(), JobState::Ended);
        job.finish(task);
        assert!(job.machine.tasks_are_counted());
    }
    assert_eq!(job.machine.live_tasks(), 1);
    assert_eq!(
        job.told(),
        [TaskCommand::Hold { epoch: 1 }, scan(1), scan(2)],
        "the first wave found what ended tasks said last"
    );
    job.finish(999).assert_ended(Outcome::Completed);
}
