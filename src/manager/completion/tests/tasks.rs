//! Tasks: their ends, stop, cancel, failure.

use super::*;

#[test]
fn a_job_completes_once_its_last_task_has_finished() {
    let mut job = Job::running(2, 0);
    job.finish(0);
    assert_eq!((job.state(), job.machine.live_tasks(), job.machine.outcome()), (JobState::Running, 1, None));
    job.finish(1);
    assert_eq!(job.commands, [seal(true), Command::Ended(Outcome::Completed)]);
    job.assert_ended(Outcome::Completed);
}

#[test]
fn a_job_without_autostop_idles_until_stop() {
    let mut job = Job::running_as(setup(1, 1));
    job.finish(0);
    assert_eq!((job.state(), job.taken()), (JobState::Idle, vec![seal(true)]));
    job.tell(Event::Stop);
    assert_eq!(job.taken(), [close_gates(), stop(0, 0), Command::Arm(of_service(0))]);
    job.stopped(0).assert_ended(Outcome::Completed);
}

#[test]
fn a_job_without_services_ends_with_its_tasks_whatever_autostop_says() {
    for autostop in [false, true] {
        let mut job = Job::running_as(Setup { autostop, ..setup(2, 0) });
        job.finish(0).finish(1).assert_ended(Outcome::Completed);

        let mut job = Job::new(Setup { autostop, ..setup(0, 0) });
        job.tell(Event::Begin).assert_ended(Outcome::Completed);
    }
}

#[test]
fn an_idle_job_that_is_cancelled_keeps_the_outcome_it_has_earned() {
    let run_limit = Setup { run_limit: true, ..setup(1, 1) };
    for event in [Event::Stop, cancel(), Event::Elapsed(Deadline::RunLimit)] {
        let mut job = Job::running_as(run_limit.clone());
        job.finish(0);
        assert_eq!((job.state(), job.taken()), (JobState::Idle, vec![seal(true)]));
        job.tell(event);
        let commands = job.taken();
        assert_eq!(commands[commands.len() - 3..], [close_gates(), stop(0, 0), Command::Arm(of_service(0))]);
        job.tell(cancel()).tell(Event::Stop).stopped(0).assert_ended(Outcome::Completed);
    }
}

#[test]
fn an_idle_job_that_is_cancelled_drops_what_is_in_its_pipelines_and_keeps_its_outcome() {
    let mut setup = setup(2, 1);
    setup.channels.clear();
    setup.tasks[1].service = Some(ServiceId(0));
    let mut job = Job::running_as(setup);
    job.finish(0);
    assert_eq!((job.state(), job.taken()), (JobState::Idle, vec![seal(true)]));
    job.tell(cancel());
    assert_eq!(job.taken(), [tell_tasks(TaskCommand::Cancel), Command::Arm(Deadline::Tasks)]);
    job.cancelled(1);
    let stopping = [Command::Disarm(Deadline::Tasks), close_gates(), stop(0, 0), Command::Arm(of_service(0))];
    assert_eq!(job.taken(), stopping);
    job.stopped(0).assert_ended(Outcome::Completed);
}

#[test]
fn a_job_without_tasks_completes_at_once_under_autostop() {
    let mut job = Job::new(Setup { autostop: true, ..setup(0, 0) });
    job.tell(Event::Begin);
    assert_eq!(job.taken(), [seal(true), Command::Ended(Outcome::Completed)]);

    let mut job = Job::new(Setup { autostop: true, ..setup(0, 1) });
    job.tell(Event::Begin).started(0).stopped(0);
    let stopping = [close_gates(), stop(0, 0), Command::Arm(of_service(0)), Command::Disarm(of_service(0))];
    let expected = [&[start(0, 0), seal(true)][..], &stopping, &[Command::Ended(Outcome::Completed)]].concat();
    assert_eq!(job.taken(), expected);
}

#[test]
fn a_job_without_tasks_and_without_autostop_idles_once_its_services_are_up() {
    let mut job = Job::new(setup(0, 1));
    job.tell(Event::Begin);
    assert_eq!(job.state(), JobState::Starting);
    job.started(0);
    assert_eq!(job.state(), JobState::Idle);
    job.tell(Event::Stop).stopped(0).assert_ended(Outcome::Completed);
}

#[test]
fn stop_drains_and_reads_as_stopped_only_if_a_source_was_cut_short() {
    for cut_short in [false, true] {
        let mut job = Job::running(2, 0);
        job.tell(Event::Stop);
        assert_eq!((job.state(), job.taken()), (JobState::Draining, vec![tell_tasks(TaskCommand::Stop)]));
        let report = TaskReport { cut_short, ..job.report(0) };
        job.task(0, TaskEvent::Finished(report)).finish(1);
        job.assert_ended(if cut_short { Outcome::Stopped } else { Outcome::Completed });
        assert_eq!(job.commands[0], seal(true));
    }
}

#[test]
fn a_stop_without_autostop_also_stops_the_services() {
    let mut job = Job::running_as(setup(1, 1));
    job.tell(Event::Stop).finish(0);
    assert_eq!(job.state(), JobState::StoppingServices);
}

#[test]
fn a_stop_before_the_tasks_were_started_starts_none_and_reads_as_stopped() {
    let mut job = Job::new(Setup { autostop: true, ..setup(1, 3) });
    job.tell(Event::Begin).started(0).started(1).taken();
    job.tell(Event::Stop);
    assert_eq!(job.taken(), [seal(true), close_gates(), Command::Arm(of_service(2))], "s2 has not started yet");
    job.started(2);
    assert_eq!(job.taken(), [stop(2, 0)]);
    job.stopped(2).stopped(1).stopped(0).assert_ended(Outcome::Stopped);
    assert_eq!(job.machine.task_state(TaskId(0)), ActorState::Waiting);
}

#[test]
fn a_job_that_never_began_can_be_stopped_and_cancelled() {
    for (event, outcome) in [(Event::Stop, Outcome::Stopped), (cancel(), cancelled(0))] {
        let mut job = Job::new(setup(1, 1));
        job.tell(event);
        job.assert_ended(outcome);
        job.taken();
        job.tell(Event::Begin);
        assert_eq!(job.taken(), []);
    }
}

#[test]
fn a_second_stop_has_no_effect() {
    let mut job = Job::running(1, 1);
    for end in [None, Some(0)] {
        if let Some(task) = end {
            job.finish(task);
        }
        job.tell(Event::Stop).taken();
        let before = job.machine.clone();
        job.tell(Event::Stop).assert_unchanged_since(&before);
    }
}

#[test]
fn cancel_drops_what_is_in_flight_and_says_how_much() {
    let mut job = Job::running(2, 1);
    job.tell(cancel());
    assert_eq!(job.taken(), [tell_tasks(TaskCommand::Cancel), Command::Arm(Deadline::Tasks)]);
    assert_eq!(job.state(), JobState::Draining);
    let mut first = job.report(0);
    first.sent[0].dropped = 3;
    let mut second = job.report(1);
    second.received[0] = Received { received: 5, discarded: 2, refused: 0 };
    second.operators[0] = OperatorAccount { received: 5, processed: 1, dead_lettered: 0, discarded: 4 };
    job.task(0, TaskEvent::Cancelled(first)).task(1, TaskEvent::Cancelled(second));
    assert_eq!(job.taken()[..2], [Command::Disarm(Deadline::Tasks), seal(false)]);
    job.stopped(0).assert_ended(cancelled(9));
    assert_eq!(job.machine.warnings(), []);
}

#[test]
fn cancel_wins_over_a_stop_that_is_still_draining() {
    let mut job = Job::running(1, 0);
    job.tell(Event::Stop).tell(cancel()).finish(0).assert_ended(cancelled(0));
}

#[test]
fn a_cancel_after_the_verdict_keeps_the_earned_outcome() {
    let mut job = Job::running(1, 1);
    job.finish(0).taken();
    let before = job.machine.clone();
    job.tell(cancel()).assert_unchanged_since(&before);
    job.stopped(0).assert_ended(Outcome::Completed);
}

#[test]
fn the_first_failure_cancels_the_other_tasks_and_is_the_cause() {
    let mut job = Job::running_as(setup(3, 1));
    job.fail(1);
    assert_eq!(job.taken(), [tell_tasks(TaskCommand::Cancel), Command::Arm(Deadline::Tasks)]);
    job.fail(2).cancelled(0);
    assert_eq!(job.taken()[..2], [Command::Disarm(Deadline::Tasks), seal(false)]);
    job.stopped(0).assert_ended(Outcome::Failed(broken(1)));
    let states = [0, 1, 2].map(|task| job.machine.task_state(TaskId(task)));
    assert_eq!(states, [ActorState::Cancelled, ActorState::Failed, ActorState::Failed]);
}

#[test]
fn a_failed_job_stays_failed_whatever_comes_after() {
    let mut job = Job::running(2, 0);
    job.fail(0).tell(cancel()).tell(Event::Stop).finish(1).assert_ended(Outcome::Failed(broken(0)));
}

#[test]
fn a_failure_beats_a_stop_but_not_an_earlier_cancel() {
    let mut job = Job::running(1, 0);
    job.tell(Event::Stop).fail(0).assert_ended(Outcome::Failed(broken(0)));

    let mut job = Job::running(1, 0);
    job.tell(cancel()).fail(0).assert_ended(cancelled(0));
    assert_eq!(job.machine.task_state(TaskId(0)), ActorState::Failed);
}

#[test]
fn a_task_cancelled_by_nobody_fails_the_job() {
    let mut job = Job::running(1, 0);
    job.cancelled(0);
    assert!(matches!(job.machine.outcome(), Some(Outcome::Failed(FailureCause::Internal(_)))));
}

#[test]
fn tasks_that_miss_the_deadline_are_abandoned_and_named() {
    let mut job = Job::running(3, 0);
    job.tell(cancel()).cancelled(0).taken();
    job.tell(Event::Elapsed(Deadline::Tasks));
    let tasks = vec![TaskId(1), TaskId(2)];
    assert_eq!(job.commands[0], order(WorkerOrder::AbandonTasks { tasks }));
    job.assert_ended(cancelled(0));
    let abandoned = |task| Warning::TaskAbandoned { task: format!("t{task}"), id: TaskId(task) };
    assert_eq!(job.machine.warnings(), [abandoned(1), abandoned(2)]);
    assert_eq!(job.machine.task_state(TaskId(2)), ActorState::Abandoned);
}

#[test]
fn a_failed_job_that_abandons_tasks_keeps_its_cause() {
    let mut job = Job::running(2, 0);
    job.fail(0).tell(Event::Elapsed(Deadline::Tasks)).assert_ended(Outcome::Failed(broken(0)));
    assert_eq!(job.machine.warnings().len(), 1);
}

#[test]
fn a_report_counts_once_and_for_its_own_attempt_only() {
    let mut job = Job::running(2, 0);
    job.finish(0);
    let before = job.machine.clone();
    job.finish(0).fail(0).cancelled(0);
    for attempt in [Attempt(0), Attempt(2)] {
        let report = job.report(1);
        job.tell(Event::Task { attempt, task: TaskId(1), event: TaskEvent::Finished(report) });
    }
    job.task(7, TaskEvent::Started).assert_unchanged_since(&before);
}

#[test]
fn the_run_limit_cancels_the_job() {
    let mut job = Job::new(Setup { run_limit: true, ..setup(1, 0) });
    job.tell(Event::Begin);
    assert_eq!(job.taken(), [Command::Arm(Deadline::RunLimit), start_tasks()]);
    job.tell(Event::Elapsed(Deadline::RunLimit)).cancelled(0);
    assert!(!job.commands.contains(&Command::Disarm(Deadline::RunLimit)), "it has passed");
    job.assert_ended(Outcome::Cancelled { reason: CancelReason::Deadline, dropped: 0 });
}

#[test]
fn the_run_limit_is_disarmed_once_the_verdict_is_in() {
    let mut job = Job::running_as(Setup { run_limit: true, autostop: true, ..setup(1, 1) });
    job.finish(0);
    assert!(job.taken().contains(&Command::Disarm(Deadline::RunLimit)));
    let before = job.machine.clone();
    job.tell(Event::Elapsed(Deadline::RunLimit)).assert_unchanged_since(&before);
}

#[test]
fn a_deadline_that_is_not_armed_changes_nothing() {
    let mut job = Job::running(1, 1);
    let before = job.machine.clone();
    for deadline in [Deadline::Tasks, Deadline::RunLimit, of_service(0), of_service(7)] {
        job.tell(Event::Elapsed(deadline));
    }
    job.assert_unchanged_since(&before);
}

#[test]
fn nothing_changes_an_ended_job() {
    let mut job = Job::running(1, 1);
    job.finish(0).stopped(0).taken();
    let before = job.machine.clone();
    job.tell(Event::Begin).tell(Event::Stop).tell(Event::Resume).tell(cancel());
    job.finish(0).fail(0).stopped(0).failed(0, 0).tell(Event::Elapsed(of_service(0)));
    job.assert_unchanged_since(&before);
}

#[test]
fn the_version_rises_with_every_visible_change_and_with_dead_letters() {
    let mut job = Job::running(1, 0);
    let mut last = job.machine.version();
    let dead = TaskEvent::DeadLettered { count: 1, newest: Vec::new() };
    for event in [TaskEvent::Started, dead, TaskEvent::Finished(job.report(0))] {
        job.task(0, event);
        assert!(job.machine.version() > last);
        last = job.machine.version();
    }
}

#[test]
fn a_task_is_waiting_until_it_reports_that_it_started() {
    let mut job = Job::running(1, 0);
    assert_eq!((job.machine.task_state(TaskId(0)), job.machine.live_tasks()), (ActorState::Waiting, 1));
    job.task(0, TaskEvent::Started);
    assert_eq!(job.machine.task_state(TaskId(0)), ActorState::Running);
}
