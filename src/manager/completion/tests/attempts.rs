//! A job that fails and begins anew.

use super::*;
use crate::manager::completion::Between;

fn order_in(attempt: u32, order: WorkerOrder) -> Command {
    Command::Order { attempt: Attempt(attempt), order }
}

const DELAY: Duration = Duration::from_secs(2);

/// Two tasks and a service, which may begin anew so often.
fn restarting(restarts: u32) -> Job {
    Job::running_as(Setup { autostop: true, restart: Restart::fixed(restarts, DELAY), ..setup(2, 1) })
}

/// The first task fails, and everything of the attempt ends.
fn fail_whole(job: &mut Job) {
    job.fail(0).cancelled(1).stopped(0);
}

fn begin_anew(job: &mut Job) {
    job.tell(Event::Elapsed(Deadline::Restart));
    let attempt = job.machine.attempt();
    job.tell(Event::Deployed { attempt }).started(0);
    job.taken();
}

#[test]
fn a_failure_ends_the_attempt_whole_before_the_next_one_is_deployed() {
    let mut job = restarting(1);
    job.fail(0);
    assert_eq!((job.state(), job.machine.between()), (JobState::Restarting, Some(Between::Tasks)));
    let cancel = WorkerOrder::CommandTasks { command: TaskCommand::Cancel };
    assert_eq!(job.taken(), [order_in(1, cancel), Command::Arm(Deadline::Tasks)]);
    job.cancelled(1);
    let dismiss = WorkerOrder::DismissService { service: ServiceId(0), incarnation: Incarnation(0) };
    assert_eq!(job.taken(), [Command::Disarm(Deadline::Tasks), order_in(1, dismiss), Command::Arm(of_service(0))]);
    job.stopped(0);
    let end = order_in(1, WorkerOrder::EndAttempt);
    assert_eq!(job.taken(), [Command::Disarm(of_service(0)), end, Command::Arm(Deadline::Restart)]);
    assert_eq!((job.machine.restart_delay(), job.machine.last_failure()), (DELAY, Some(&broken(0))));
    job.tell(Event::Elapsed(Deadline::Restart));
    assert_eq!(job.taken(), [Command::Deploy { attempt: Attempt(2) }]);
    job.tell(Event::Deployed { attempt: Attempt(2) });
    let start = WorkerOrder::StartService { service: ServiceId(0), incarnation: Incarnation(1) };
    assert_eq!((job.state(), job.taken()), (JobState::Starting, vec![order_in(2, start)]));
    job.started(0).finish(0).finish(1).stopped(0);
    job.assert_ended(Outcome::Completed);
}

#[test]
fn a_job_begins_anew_as_often_as_it_may_and_then_fails() {
    let mut job = restarting(2);
    for _ in 0..2 {
        fail_whole(&mut job);
        begin_anew(&mut job);
    }
    fail_whole(&mut job);
    job.assert_ended(Outcome::Failed(broken(0)));
    assert_eq!(job.machine.attempt(), Attempt(3));
}

#[test]
fn a_job_that_may_not_begin_anew_fails_at_once() {
    let mut job = restarting(0);
    fail_whole(&mut job);
    job.assert_ended(Outcome::Failed(broken(0)));
}

#[test]
fn what_is_late_of_an_earlier_attempt_changes_nothing() {
    let mut job = restarting(1);
    fail_whole(&mut job);
    begin_anew(&mut job);
    let before = job.machine.clone();
    let report = job.report(0);
    let failed = TaskEvent::Failed { cause: broken(1), report: report.clone() };
    for event in [TaskEvent::Finished(report), failed] {
        job.tell(Event::Task { attempt: Attempt(1), task: TaskId(1), event });
    }
    let cause = FailureCause::WorkerLost { worker: "w".to_owned(), cause: "gone".to_owned() };
    job.tell(Event::Lost { attempt: Attempt(1), tasks: vec![TaskId(0)], services: Vec::new(), gone: true, cause });
    job.assert_unchanged_since(&before);
}

#[test]
fn stop_between_two_attempts_leaves_the_failure_standing() {
    let mut job = restarting(1);
    job.fail(0).tell(Event::Stop);
    assert_eq!(job.state(), JobState::Draining);
    job.cancelled(1).stopped(0);
    job.assert_ended(Outcome::Failed(broken(0)));

    let mut job = restarting(1);
    fail_whole(&mut job);
    job.tell(Event::Stop);
    job.assert_ended(Outcome::Failed(broken(0)));
}

#[test]
fn stop_before_the_tasks_of_a_later_attempt_run_leaves_the_failure_standing() {
    let mut job = restarting(1);
    fail_whole(&mut job);
    job.tell(Event::Elapsed(Deadline::Restart)).tell(Event::Deployed { attempt: Attempt(2) }).tell(Event::Stop);
    job.started(0).stopped(0);
    job.assert_ended(Outcome::Failed(broken(0)));
}

#[test]
fn cancel_ends_a_job_that_is_to_begin_anew() {
    for moment in 0..4 {
        let mut job = restarting(1);
        job.fail(0);
        if moment > 0 {
            job.cancelled(1);
        }
        if moment > 1 {
            job.stopped(0);
        }
        if moment > 2 {
            job.tell(Event::Elapsed(Deadline::Restart));
        }
        job.tell(cancel());
        if moment < 1 {
            job.cancelled(1);
        }
        if moment < 2 {
            job.stopped(0);
        }
        assert!(matches!(job.machine.outcome(), Some(Outcome::Cancelled { .. })), "{moment}: {:?}", job.state());
        let before = job.machine.clone();
        job.taken();
        job.tell(Event::Deployed { attempt: Attempt(2) });
        job.assert_unchanged_since(&before);
    }
}

#[test]
fn a_service_beyond_its_limit_has_the_job_begin_anew_and_keeps_its_queue() {
    let mut job = restarting(1);
    for at in 0..4 {
        job.failed(0, at).started(0);
    }
    assert_eq!(job.state(), JobState::Restarting);
    let refused = |command: &Command| matches!(command, Command::Order { order: WorkerOrder::RefuseCalls { .. }, .. });
    assert!(!job.taken().iter().any(refused));
    job.cancelled(0).cancelled(1);
    assert_eq!(job.machine.between(), Some(Between::Delay));
}

#[test]
fn accounts_that_do_not_balance_are_never_tried_again() {
    let mut job = restarting(5);
    let report = TaskReport::default();
    job.task(0, TaskEvent::Finished(report)).finish(1).stopped(0);
    assert!(matches!(job.machine.outcome(), Some(Outcome::Failed(FailureCause::Accounts { .. }))));
}

#[test]
fn a_failure_after_stop_is_final() {
    let mut job = restarting(5);
    job.tell(Event::Stop);
    fail_whole(&mut job);
    job.assert_ended(Outcome::Failed(broken(0)));
}

#[test]
fn an_attempt_that_cannot_be_deployed_counts_as_one_that_failed() {
    let mut job = restarting(2);
    fail_whole(&mut job);
    job.tell(Event::Elapsed(Deadline::Restart));
    let cause = FailureCause::NotBegunAnew { message: "no worker".to_owned() };
    job.tell(Event::Undeployed { attempt: Attempt(2), cause: cause.clone() });
    assert_eq!(job.machine.between(), Some(Between::Delay));
    job.tell(Event::Elapsed(Deadline::Restart));
    job.tell(Event::Undeployed { attempt: Attempt(3), cause: cause.clone() });
    job.assert_ended(Outcome::Failed(cause));
}

/// After so many seconds, with the delay of the restart or the failure that stands.
fn delays(restart: Restart, failures_at: &[u64]) -> Vec<Option<u64>> {
    let mut job = Job::running_as(Setup { autostop: true, restart, ..setup(1, 0) });
    let mut delays = Vec::new();
    for &at in failures_at {
        let report = job.report(0);
        let event = TaskEvent::Failed { cause: broken(0), report };
        job.tell_at(Event::Task { attempt: job.machine.attempt(), task: TaskId(0), event }, at);
        let restarts = job.state() == JobState::Restarting;
        delays.push(restarts.then(|| job.machine.restart_delay().as_secs()));
        job.tell_at(Event::Elapsed(Deadline::Restart), at);
        job.tell_at(Event::Deployed { attempt: job.machine.attempt() }, at);
    }
    delays
}

#[test]
fn delays_follow_the_strategy() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    assert_eq!(delays(Restart::fixed(2, second), &[0, 0, 0]), [Some(1), Some(1), None]);
    let often: Vec<u64> = (0..21).collect();
    let expected = [1, 2, 4, 8, 16, 32, 60];
    let grown = expected.into_iter().chain([60; 13]).map(Some).chain([None]);
    assert_eq!(delays(Restart::exponential(), &often), grown.collect::<Vec<_>>());
    assert_eq!(delays(Restart::exponential(), &[0, 1, 602]), [Some(1), Some(2), Some(1)]);
    assert_eq!(delays(Restart::rate(2, minute, second), &[0, 30, 70, 75]), [Some(1), Some(1), Some(1), None]);
}
