mod between;

use super::*;

#[test]
fn channels_are_numbered_by_producer_and_then_by_consumer() {
    let all = Feed { producers: 2, first_task: 0, pairing: Pairing::AllToAll, first_channel: 10 };
    assert_eq!(all.channels_of(0, 3).collect::<Vec<_>>(), [(0, 10), (1, 11), (2, 12)]);
    assert_eq!(all.channels_of(1, 3).collect::<Vec<_>>(), [(0, 13), (1, 14), (2, 15)]);
    let one = Feed { pairing: Pairing::OneToOne, ..all };
    assert_eq!(one.channels_of(1, 2).collect::<Vec<_>>(), [(1, 11)]);
    assert_eq!(one.channels_of(2, 2).count(), 0);
}

#[test]
fn each_end_of_a_channel_is_taken_once_and_lanes_come_in_the_order_of_channels() {
    let mut plan = EdgePlan::within_a_worker::<u8>(9, 2);
    plan.feeds.push(Feed { producers: 2, first_task: 0, pairing: Pairing::AllToAll, first_channel: 0 });
    plan.feeds.push(Feed { producers: 2, first_task: 0, pairing: Pairing::OneToOne, first_channel: 4 });
    let streams = Arc::new(crate::dataplane::wiring::Streams { outputs: Vec::new(), inputs: Vec::new() });
    let limits = LaneLimits { batches: 1, bytes: 1, peer_bytes: 1 };
    let wiring = Wiring::new(vec![plan.wire(limits, &Layout::alone(11), None)], Vec::new(), Vec::new(), streams);
    let (_, channels) = Edge::<u8>::take_gate(&wiring, EdgeId(0), 1);
    assert_eq!(channels, [1, 3, 5]);
    assert_eq!(Edge::<u8>::take_lanes(&wiring, EdgeId(0), 0, 1).len(), 2);
    assert_eq!(Edge::<u8>::take_lanes(&wiring, EdgeId(0), 1, 0).len(), 1);
    assert_eq!(Edge::<u8>::take_lanes(&wiring, EdgeId(0), 1, 0).len(), 0);
}

#[test]
fn an_edge_is_wired_as_often_as_is_wanted_each_time_with_channels_of_its_own() {
    let mut plan = EdgePlan::within_a_worker::<u8>(9, 1);
    plan.feeds.push(Feed { producers: 1, first_task: 0, pairing: Pairing::OneToOne, first_channel: 0 });
    let limits = LaneLimits { batches: 1, bytes: 1, peer_bytes: 1 };
    let wire = || {
        let streams = Arc::new(crate::dataplane::wiring::Streams { outputs: Vec::new(), inputs: Vec::new() });
        Wiring::new(vec![plan.wire(limits, &Layout::alone(10), None)], Vec::new(), Vec::new(), streams)
    };
    let (first, second) = (wire(), wire());
    assert_eq!(Edge::<u8>::take_lanes(&first, EdgeId(0), 0, 0).len(), 1);
    assert_eq!(Edge::<u8>::take_lanes(&second, EdgeId(0), 0, 0).len(), 1, "what one attempt took, another one has");
    let (one, _) = Edge::<u8>::take_gate(&first, EdgeId(0), 0);
    let (other, _) = Edge::<u8>::take_gate(&second, EdgeId(0), 0);
    assert!(!Arc::ptr_eq(&one, &other));
}
