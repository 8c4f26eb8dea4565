//! The accounts of finished and of cancelled jobs.

use super::*;

/// Ends a chain of two tasks with these reports, changed by `change`.
fn finished_with(change: impl FnOnce(&mut TaskReport, &mut TaskReport)) -> Job {
    let mut job = Job::running(2, 0);
    let (mut first, mut second) = (job.report(0), job.report(1));
    change(&mut first, &mut second);
    job.task(1, TaskEvent::Finished(second)).task(0, TaskEvent::Finished(first));
    job
}

#[track_caller]
fn assert_imbalance(mut job: Job, place: &str, detail: &str) {
    let (place, detail) = (place.to_owned(), detail.to_owned());
    job.assert_ended(Outcome::Failed(FailureCause::Accounts { place, detail }));
    assert!(job.commands.contains(&seal(false)));
}

#[test]
fn an_item_lost_in_a_channel_fails_the_job_and_names_the_channel() {
    let job = finished_with(|_, second| second.received[0].received = 6);
    assert_imbalance(job, "channel `t0 -> t1`", "7 sent, but 6 received, 0 discarded and 0 refused");
}

#[test]
fn an_item_that_nobody_sent_fails_the_job() {
    let job = finished_with(|first, _| first.sent[0].sent = 6);
    assert_imbalance(job, "channel `t0 -> t1`", "6 sent, but 7 received, 0 discarded and 0 refused");
}

#[test]
fn items_refused_by_a_consumer_that_closed_its_end_are_accounted_for() {
    let mut job = finished_with(|_, second| second.received[0] = Received { received: 3, discarded: 0, refused: 4 });
    job.assert_ended(Outcome::Completed);
}

#[test]
fn items_thrown_away_although_nothing_was_cancelled_fail_the_job() {
    let job = finished_with(|_, second| second.received[0] = Received { received: 3, discarded: 4, refused: 0 });
    assert_imbalance(job, "channel `t0 -> t1`", "4 discarded and 0 dropped, although nothing was cancelled");
    let job = finished_with(|first, _| first.sent[0].dropped = 2);
    assert_imbalance(job, "channel `t0 -> t1`", "0 discarded and 2 dropped, although nothing was cancelled");
}

#[test]
fn an_item_lost_in_an_operator_fails_the_job_and_names_the_operator() {
    let job = finished_with(|_, second| second.operators[0].processed = 6);
    let detail = "7 received, but 6 processed, 0 dead-lettered and 0 discarded";
    assert_imbalance(job, "operator `o1` of task `t1`", detail);
}

#[test]
fn dead_letters_and_items_an_operator_discarded_are_accounted_for() {
    let account = OperatorAccount { received: 7, processed: 4, dead_lettered: 2, discarded: 1 };
    finished_with(|_, second| second.operators[0] = account).assert_ended(Outcome::Completed);
}

#[test]
fn an_account_that_is_missing_or_too_many_fails_the_job() {
    let job = finished_with(|_, second| second.received.clear());
    assert_imbalance(job, "task `t1`", "it has 1 input channels and accounts for 0");
    let job = finished_with(|first, _| first.sent.push(Sent::default()));
    assert_imbalance(job, "task `t0`", "it has 1 output channels and accounts for 2");
    let job = finished_with(|first, _| first.operators.clear());
    assert_imbalance(job, "task `t0`", "it has 1 operators and accounts for 0");
}

#[test]
fn counts_beyond_64_bits_are_a_difference_and_no_overflow() {
    let detail = format!("7 sent, but {0} received, 0 discarded and {0} refused", u64::MAX);
    let corrupt = Received { received: u64::MAX, discarded: 0, refused: u64::MAX };
    assert_imbalance(finished_with(|_, second| second.received[0] = corrupt), "channel `t0 -> t1`", &detail);
}

#[test]
fn each_channel_is_checked_against_its_own_entries() {
    let channel = |from, to, name: &str| ChannelSetup { from: TaskId(from), to: TaskId(to), name: name.to_owned() };
    // Two producers, two consumers, listed consumer by consumer.
    let channels = vec![channel(0, 2, "a"), channel(1, 2, "b"), channel(0, 3, "c"), channel(1, 3, "d")];
    for odd in [6, 7] {
        let mut job = Job::running_as(Setup { channels: channels.clone(), autostop: true, ..setup(4, 0) });
        let sent = [vec![1, 3], vec![2, 4], vec![], vec![]];
        let received = [vec![], vec![], vec![1, 2], vec![3, odd - 3]];
        for (task, (sent, received)) in sent.into_iter().zip(received).enumerate() {
            let report = TaskReport {
                sent: sent.into_iter().map(|sent| Sent { sent, dropped: 0 }).collect(),
                received: received.into_iter().map(|it| Received { received: it, ..Received::default() }).collect(),
                ..job.report(task as u32)
            };
            job.task(task as u32, TaskEvent::Finished(report));
        }
        if odd == 7 {
            job.assert_ended(Outcome::Completed);
        } else {
            assert_imbalance(job, "channel `d`", "4 sent, but 3 received, 0 discarded and 0 refused");
        }
    }
}

#[test]
fn a_cancelled_job_whose_accounts_do_not_balance_stays_cancelled_and_says_so() {
    let mut job = Job::running(2, 0);
    job.tell(cancel()).cancelled(0);
    let mut second = job.report(1);
    second.received[0] = Received { received: 4, discarded: 2, refused: 0 };
    job.task(1, TaskEvent::Cancelled(second)).assert_ended(cancelled(2));
    let detail = "7 sent, but 4 received, 2 discarded and 0 refused".to_owned();
    assert_eq!(job.machine.warnings(), [Warning::Accounts { place: "channel `t0 -> t1`".to_owned(), detail }]);
}

#[test]
fn a_task_cancelled_before_it_opened_its_channels_has_nothing_to_account_for() {
    let mut job = Job::running(2, 0);
    job.tell(cancel());
    for task in [0, 1] {
        job.task(task, TaskEvent::Cancelled(TaskReport::default()));
    }
    job.assert_ended(cancelled(0));
    assert_eq!(job.machine.warnings(), []);
}

#[test]
fn a_channel_of_an_abandoned_task_is_not_checked() {
    let mut job = Job::running(2, 0);
    job.tell(cancel()).cancelled(0).tell(Event::Elapsed(Deadline::Tasks)).assert_ended(cancelled(0));
    assert_eq!(job.machine.warnings(), [Warning::TaskAbandoned { task: "t1".to_owned(), id: TaskId(1) }]);
}
