//! Whether what went into channels and operators came out of them.

use super::setup::{ChannelSetup, Setup, TaskSetup};
use crate::{
    job::{FailureCause, TaskId, Warning},
    protocol::{OperatorAccount, Received, Sent, TaskReport},
};

/// The reports of all tasks in the order of the graph; `None` for a task that handed in none.
type Reports = [Option<TaskReport>];

/// One place whose accounts do not balance.
struct Difference {
    place: String,
    detail: String,
}

impl Difference {
    fn of_channel(channel: &ChannelSetup, detail: String) -> Self {
        Self { place: format!("channel `{}`", channel.name), detail }
    }
}

/// Checks the accounts of those tasks that `concerns` says yes to, which all finished by themselves: every item is accounted
/// for, and none was thrown away.
pub(super) fn check(
    setup: &Setup,
    reports: &Reports,
    concerns: impl Fn(&TaskSetup) -> bool,
) -> Result<(), FailureCause> {
    let difference = missing_account(setup, reports, concerns)
        .or_else(|| {
            channel_ends(setup, reports).find_map(|(channel, sent, received)| {
                lost_on_the_way(channel, sent, received).or_else(|| thrown_away(channel, sent, received))
            })
        })
        .or_else(|| operator_difference(setup, reports));
    match difference {
        Some(Difference { place, detail }) => Err(FailureCause::Accounts { place, detail }),
        None => Ok(()),
    }
}

/// The channels of a cancelled job whose accounts do not balance, where both ends handed theirs in.
///
/// A task may be cancelled before it opened its channels. Then its report lacks their entries: it sent nothing, and
/// what was sent to it was thrown away with it.
pub(super) fn differences(setup: &Setup, reports: &Reports) -> Vec<Warning> {
    channel_ends(setup, reports)
        .filter_map(|(channel, sent, received)| lost_on_the_way(channel, sent, received))
        .map(|Difference { place, detail }| Warning::Accounts { place, detail })
        .collect()
}

/// Items that were in flight and were thrown away, as far as it was reported.
pub(super) fn dropped(setup: &Setup, reports: &Reports) -> u64 {
    let reported = reports.iter().flatten().flat_map(|report| {
        let channels = report.received.iter().map(|end| end.discarded).chain(report.sent.iter().map(|end| end.dropped));
        channels.chain(report.operators.iter().map(|operator| operator.discarded))
    });
    let opened =
        |consumer: TaskId| reports[consumer.index()].as_ref().is_some_and(|report| !report.received.is_empty());
    let unopened = channel_ends(setup, reports).filter(|(channel, ..)| !opened(channel.to));
    reported.chain(unopened.map(|(_, _, received)| received.discarded)).fold(0, u64::saturating_add)
}

/// Each channel with what its two ends reported, where both tasks reported at all.
fn channel_ends<'a>(
    setup: &'a Setup,
    reports: &'a Reports,
) -> impl Iterator<Item = (&'a ChannelSetup, Sent, Received)> {
    // A task accounts for its ends in the order of the graph, so its next end is the next entry of its report.
    let mut next_sent = vec![0; reports.len()];
    let mut next_received = vec![0; reports.len()];
    setup.channels.iter().filter_map(move |channel| {
        let (from, to) = (channel.from.index(), channel.to.index());
        let sent_at = advance(next_sent.get_mut(from)?);
        let received_at = advance(next_received.get_mut(to)?);
        let (producer, consumer) = (reports[from].as_ref()?, reports[to].as_ref()?);
        let sent = producer.sent.get(sent_at).copied().unwrap_or_default();
        let unopened = Received { discarded: sent.sent, ..Received::default() };
        let received = consumer.received.get(received_at).copied().unwrap_or(unopened);
        Some((channel, sent, received))
    })
}

fn advance(next: &mut usize) -> usize {
    *next += 1;
    *next - 1
}

/// A task whose report is missing, or has too few or too many entries.
fn missing_account(setup: &Setup, reports: &Reports, concerns: impl Fn(&TaskSetup) -> bool) -> Option<Difference> {
    let tasks = setup.tasks.iter().zip(reports).enumerate();
    tasks.filter(|(_, (task, _))| concerns(task)).find_map(|(at, (task, report))| {
        let detail = match report {
            None => "it handed in no report".to_owned(),
            Some(report) => {
                let outputs = setup.channels.iter().filter(|channel| channel.from.index() == at).count();
                let inputs = setup.channels.iter().filter(|channel| channel.to.index() == at).count();
                [
                    (inputs, report.received.len(), "input channels"),
                    (outputs, report.sent.len(), "output channels"),
                    (task.operators.len(), report.operators.len(), "operators"),
                ]
                .into_iter()
                .find(|(has, reported, _)| has != reported)
                .map(|(has, reported, what)| format!("it has {has} {what} and accounts for {reported}"))?
            }
        };
        Some(Difference { place: format!("task `{}`", task.name), detail })
    })
}

fn lost_on_the_way(channel: &ChannelSetup, sent: Sent, end: Received) -> Option<Difference> {
    let Received { received, discarded, refused } = end;
    // Summed in 128 bits: a corrupt count shows as a difference, never as an overflow.
    let arrived = u128::from(received) + u128::from(discarded) + u128::from(refused);
    let sent = sent.sent;
    (u128::from(sent) != arrived).then(|| {
        let detail = format!("{sent} sent, but {received} received, {discarded} discarded and {refused} refused");
        Difference::of_channel(channel, detail)
    })
}

fn thrown_away(channel: &ChannelSetup, sent: Sent, end: Received) -> Option<Difference> {
    let (discarded, dropped) = (end.discarded, sent.dropped);
    (discarded != 0 || dropped != 0).then(|| {
        let detail = format!("{discarded} discarded and {dropped} dropped, although nothing was cancelled");
        Difference::of_channel(channel, detail)
    })
}

fn operator_difference(setup: &Setup, reports: &Reports) -> Option<Difference> {
    let reported = setup.tasks.iter().zip(reports).filter_map(|(task, report)| Some((task, report.as_ref()?)));
    reported.into_iter().find_map(|(task, report)| {
        task.operators.iter().zip(&report.operators).find_map(|(operator, account)| {
            let OperatorAccount { received, processed, dead_lettered, discarded } = *account;
            let left = u128::from(processed) + u128::from(dead_lettered) + u128::from(discarded);
            (u128::from(received) != left).then(|| Difference {
                place: format!("operator `{operator}` of task `{}`", task.name),
                detail: format!(
                    "{received} received, but {processed} processed, {dead_lettered} dead-lettered and {discarded} discarded"
                ),
            })
        })
    })
}
