//! Pause and resume.

use super::*;

fn held(epoch: u32) -> TaskEvent {
    TaskEvent::Held { epoch }
}

#[test]
fn a_job_is_paused_once_every_live_task_holds() {
    let mut job = Job::running(3, 0);
    job.finish(0).tell(Event::Pause);
    assert_eq!(job.taken(), [tell_tasks(TaskCommand::Hold { epoch: 1 })]);
    job.task(1, held(1)).task(1, held(1));
    assert_eq!(job.state(), JobState::Pausing);
    job.task(2, held(1));
    assert_eq!(job.state(), JobState::Paused);
    job.tell(Event::Resume);
    assert_eq!((job.state(), job.taken()), (JobState::Running, vec![tell_tasks(TaskCommand::Resume)]));
}

#[test]
fn a_task_that_ends_need_not_hold() {
    let mut job = Job::running(2, 0);
    job.tell(Event::Pause).task(1, held(1)).finish(0);
    assert_eq!(job.state(), JobState::Paused);
}

#[test]
fn a_job_whose_tasks_all_end_while_it_pauses_goes_on_as_usual() {
    let mut job = Job::running(1, 0);
    job.tell(Event::Pause).finish(0).assert_ended(Outcome::Completed);
}

#[test]
fn the_mark_of_an_earlier_hold_is_stale() {
    let mut job = Job::running(1, 0);
    job.tell(Event::Pause).tell(Event::Resume).task(0, held(1));
    assert_eq!(job.state(), JobState::Running);
    job.tell(Event::Pause).task(0, held(1));
    assert_eq!(job.state(), JobState::Pausing);
    job.task(0, held(2));
    assert_eq!(job.state(), JobState::Paused);
}

#[test]
fn a_job_paused_again_waits_for_every_task_again() {
    let mut job = Job::running(2, 0);
    job.tell(Event::Pause).task(0, held(1)).task(1, held(1));
    job.tell(Event::Resume).tell(Event::Pause).task(0, held(2));
    assert_eq!(job.state(), JobState::Pausing);
}

#[test]
fn pausing_twice_and_resuming_what_runs_have_no_effect() {
    let mut job = Job::running(1, 0);
    let before = job.machine.clone();
    job.tell(Event::Resume).assert_unchanged_since(&before);
    for event in [Event::Pause, Event::Task { attempt: Attempt(1), task: TaskId(0), event: held(1) }] {
        job.tell(event).taken();
        let before = job.machine.clone();
        job.tell(Event::Pause).assert_unchanged_since(&before);
    }
}

#[test]
fn stop_ends_the_hold_of_a_paused_job_and_drains() {
    let mut job = Job::running(1, 0);
    job.tell(Event::Pause).task(0, held(1)).taken();
    job.tell(Event::Stop);
    assert_eq!((job.state(), job.taken()), (JobState::Draining, vec![tell_tasks(TaskCommand::Stop)]));
    job.finish(0).assert_ended(Outcome::Completed);
}

#[test]
fn a_paused_job_can_be_cancelled() {
    let mut job = Job::running(1, 0);
    job.tell(Event::Pause).task(0, held(1)).tell(cancel()).cancelled(0).assert_ended(cancelled(0));
}

#[test]
fn a_job_that_does_not_run_cannot_be_paused() {
    let starting = Job::new(setup(1, 0));
    let mut draining = Job::running(1, 0);
    draining.tell(Event::Stop);
    let mut idle = Job::running_as(setup(1, 1));
    idle.finish(0);
    let mut stopping = Job::running(1, 1);
    stopping.finish(0);
    let mut ended = Job::running(1, 0);
    ended.finish(0);
    for mut job in [starting, draining, idle, stopping, ended] {
        let before = job.machine.clone();
        let conflict = Conflict { state: job.state() };
        assert_eq!(job.machine.apply(Event::Pause, Duration::ZERO), Err(conflict));
        assert_eq!(job.machine, before);
        assert_eq!(conflict.to_string(), format!("a job that is {} cannot be paused", before.state()));
    }
}
