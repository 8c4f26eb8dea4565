use super::*;

const LIMITS: LaneLimits = LaneLimits { batches: 2, bytes: 100, peer_bytes: 1 };

fn take(receiver: &mut GateReceiver<u8>) -> Option<Taken<u8>> {
    match receiver.poll_take(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(taken) => Some(taken),
        Poll::Pending => None,
    }
}

#[test]
fn credit_comes_back_when_a_batch_is_consumed_not_when_it_is_taken() {
    let gate = Gate::new(LIMITS);
    let lane = gate.add_lane();
    let mut receiver = GateReceiver::new(gate);
    assert_eq!(lane.offer(&mut vec![1], 1), Offer::Taken);
    assert_eq!(lane.offer(&mut vec![2], 1), Offer::Taken);
    assert_eq!(lane.offer(&mut vec![3], 1), Offer::Full);
    assert!(matches!(take(&mut receiver), Some(Taken::Batch(batch)) if batch == [1]));
    assert_eq!(lane.offer(&mut vec![3], 1), Offer::Full);
    receiver.release(None);
    assert_eq!(lane.offer(&mut vec![3], 1), Offer::Taken);
}

#[test]
fn a_batch_heavier_than_the_limit_is_admitted_alone() {
    let gate = Gate::new(LIMITS);
    let lane = gate.add_lane();
    assert_eq!(lane.offer(&mut vec![1], 1000), Offer::Taken);
    assert_eq!(lane.offer(&mut vec![2], 1), Offer::Full);
}

#[test]
fn the_end_comes_once_all_lanes_have_ended() {
    let gate = Gate::new(LIMITS);
    let (a, b) = (gate.add_lane(), gate.add_lane());
    let mut receiver = GateReceiver::new(gate);
    a.mark(Mark::End);
    assert!(take(&mut receiver).is_none());
    assert_eq!(b.offer(&mut vec![7], 1), Offer::Taken);
    b.mark(Mark::End);
    assert!(matches!(take(&mut receiver), Some(Taken::Batch(_))));
    assert!(matches!(take(&mut receiver), Some(Taken::Mark(Mark::End))));
}

#[test]
fn a_hold_waits_for_every_lane_that_has_not_ended() {
    let gate = Gate::new(LIMITS);
    let (a, b, c) = (gate.add_lane(), gate.add_lane(), gate.add_lane());
    let mut receiver = GateReceiver::new(gate);
    a.mark(Mark::Hold(1));
    b.mark(Mark::End);
    assert!(take(&mut receiver).is_none());
    c.mark(Mark::Hold(1));
    assert!(matches!(take(&mut receiver), Some(Taken::Mark(Mark::Hold(1)))));
    assert!(take(&mut receiver).is_none());
}

/// An idle lane had delivered the second hold before a busy one delivered the first, and the second was forgotten.
#[test]
fn a_lane_that_is_a_hold_ahead_does_not_lose_it() {
    let gate = Gate::new(LIMITS);
    let (idle, busy) = (gate.add_lane(), gate.add_lane());
    let mut receiver = GateReceiver::new(gate);
    idle.mark(Mark::Hold(1));
    idle.mark(Mark::Hold(2));
    assert!(take(&mut receiver).is_none());
    busy.mark(Mark::Hold(1));
    assert!(matches!(take(&mut receiver), Some(Taken::Mark(Mark::Hold(1)))));
    busy.mark(Mark::Hold(2));
    assert!(matches!(take(&mut receiver), Some(Taken::Mark(Mark::Hold(2)))));
    assert!(take(&mut receiver).is_none());
}

/// Batches that went round went before the hold for as long as there were any, which may be for ever.
#[test]
fn a_hold_does_not_wait_for_what_goes_round() {
    let gate = Gate::new(LIMITS);
    let (entry, back) = (gate.add_lane(), gate.add_lane());
    let mut receiver = GateReceiver::in_loop(gate, vec![Place::Entry, Place::Closing]);
    for item in [1, 2] {
        assert_eq!(back.offer_freely(&mut vec![item], 1, 9), Offer::Taken);
    }
    assert_eq!(entry.offer(&mut vec![3], 1), Offer::Taken);
    entry.mark(Mark::Hold(1));
    assert!(matches!(take(&mut receiver), Some(Taken::Batch(batch)) if batch == [1]));
    receiver.hold_back(Some(1));
    assert!(matches!(take(&mut receiver), Some(Taken::Batch(batch)) if batch == [3]));
    assert!(matches!(take(&mut receiver), Some(Taken::Mark(Mark::Hold(1)))));
    assert!(take(&mut receiver).is_none());
    receiver.hold_back(None);
    assert!(matches!(take(&mut receiver), Some(Taken::Batch(batch)) if batch == [2]));
}

/// Each hold let in what was on its way, and nothing went round: holds in quick succession filled the loop.
#[test]
fn a_loop_that_fills_up_goes_round_although_a_hold_is_on_its_way() {
    let gate = Gate::new(LIMITS);
    let (entry, back) = (gate.add_lane(), gate.add_lane());
    let mut receiver = GateReceiver::in_loop(gate, vec![Place::Entry, Place::Closing]);
    assert_eq!(back.offer_freely(&mut vec![1, 2], 2, 9), Offer::Taken);
    assert_eq!(entry.offer(&mut vec![3], 1), Offer::Taken);
    receiver.hold_back(Some(1));
    assert!(matches!(take(&mut receiver), Some(Taken::Batch(batch)) if batch == [1, 2]));
    assert!(matches!(take(&mut receiver), Some(Taken::Batch(batch)) if batch == [3]));
}

#[test]
fn a_closed_gate_books_what_waited_and_refuses_the_rest() {
    let gate = Gate::new(LIMITS);
    let lane = gate.add_lane();
    let mut receiver = GateReceiver::new(gate);
    assert_eq!(lane.offer(&mut vec![1, 2, 3], 3), Offer::Taken);
    receiver.close(CloseAs::Refused);
    assert_eq!(lane.offer(&mut vec![4], 1), Offer::Closed);
    assert_eq!(receiver.accounts(), [Received { received: 0, discarded: 0, refused: 3 }]);
    assert!(matches!(take(&mut receiver), Some(Taken::Mark(Mark::End))));
}
