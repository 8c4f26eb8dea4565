use super::*;
use crate::{
    job::Limits,
    port::{Input, InputPort, PortEvent},
    schema::TypeDescription,
};

fn port(items: usize) -> (Arc<InputPort<u64>>, Input<u64>) {
    let limits = Limits { port_items: items, ..Limits::default() };
    let port = InputPort::<u64>::new("numbers", TypeDescription::of::<u64>(), &limits);
    let resolver = Fixed(Arc::clone(&port) as Arc<dyn AnyInput>);
    (port, Input::new(Arc::new(resolver), JobId::random(), "numbers"))
}

/// What the source finds: the items, and whether more may come.
fn taken(port: &InputPort<u64>, max: usize) -> (Vec<u64>, Poll<PortEvent>) {
    let mut items = Vec::new();
    let event = port.poll_batch(&mut Context::from_waker(Waker::noop()), &mut items, max);
    (items, event)
}

fn finished() -> InputError {
    InputError::Finished { input: "numbers".to_owned() }
}

fn closed() -> InputError {
    InputError::Closed { input: "numbers".to_owned() }
}

#[test]
fn items_arrive_in_the_order_they_were_sent() {
    let (port, input) = port(10);
    let (bell, waker) = bell();
    let mut items = Vec::new();
    assert!(port.poll_batch(&mut Context::from_waker(&waker), &mut items, 10).is_pending());
    for n in 0..5 {
        now("a send", input.send(n)).expect("there is room");
    }
    assert_eq!(bell.rung(), 1);
    assert_eq!(taken(&port, 3), (vec![0, 1, 2], Poll::Ready(PortEvent::Items)));
    assert_eq!(taken(&port, 3), (vec![3, 4], Poll::Ready(PortEvent::Items)));
    assert_eq!(taken(&port, 3), (vec![], Poll::Pending));
    assert_eq!(port.queued(), 0);
}

#[test]
fn a_send_waits_while_the_input_is_full_and_waiting_senders_keep_their_order() {
    let (port, input) = port(2);
    now("send_all", input.send_all([0, 1])).expect("there is room");
    let (bells, wakers): (Vec<_>, Vec<_>) = (0..3).map(|_| bell()).unzip();
    let mut sends: Vec<_> = (2..5).map(|n| Box::pin(input.send(n))).collect();
    for (send, waker) in sends.iter_mut().zip(&wakers) {
        assert!(poll(send.as_mut(), waker).is_pending());
    }
    assert_eq!(taken(&port, 2).0, [0, 1]);
    // Two have room. The last is not woken, and does not get in before them.
    assert_eq!(bells.iter().map(|bell| bell.rung()).collect::<Vec<_>>(), [1, 1, 0]);
    assert!(poll(sends[2].as_mut(), &wakers[2]).is_pending());
    for send in &mut sends[..2] {
        assert_eq!(poll(send.as_mut(), Waker::noop()), Poll::Ready(Ok(())));
    }
    assert_eq!(taken(&port, 1).0, [2]);
    assert_eq!(bells[2].rung(), 1);
    assert_eq!(poll(sends[2].as_mut(), Waker::noop()), Poll::Ready(Ok(())));
    assert_eq!(taken(&port, 9).0, [3, 4]);
}

#[test]
fn a_dropped_send_did_not_send_and_gives_its_place_away() {
    let (port, input) = port(1);
    now("a send", input.send(0)).expect("there is room");
    let (bell, waker) = bell();
    let mut first = Box::pin(input.send(1));
    let mut second = Box::pin(input.send(2));
    assert!(poll(first.as_mut(), Waker::noop()).is_pending());
    assert!(poll(second.as_mut(), &waker).is_pending());
    assert_eq!(taken(&port, 9).0, [0]);
    assert_eq!(bell.rung(), 0);
    // The room was the first sender's, who has been woken and is dropped instead of polled.
    drop(first);
    assert_eq!(bell.rung(), 1);
    assert_eq!(poll(second.as_mut(), &waker), Poll::Ready(Ok(())));
    assert_eq!(taken(&port, 9).0, [2]);
}

#[test]
fn finish_ends_the_input_once_what_was_sent_is_taken() {
    let (port, input) = port(1);
    now("a send", input.send(0)).expect("there is room");
    let other = input.clone();
    let (bell, waker) = bell();
    let mut waiting = Box::pin(other.send(1));
    assert!(poll(waiting.as_mut(), &waker).is_pending());
    assert_eq!(now("finish", input.finish()), Ok(()));
    assert_eq!(now("finish", other.finish()), Ok(()));
    assert_eq!(bell.rung(), 1);
    let refused = now("the waiting send", waiting).expect_err("the input is finished");
    assert_eq!(refused.into_parts(), (1, finished()));
    assert_eq!(taken(&port, 9), (vec![0], Poll::Ready(PortEvent::Items)));
    assert_eq!(taken(&port, 9), (vec![], Poll::Ready(PortEvent::Finished)));
    assert_eq!(port.close(), 0);
    assert_eq!(now("finish", input.finish()), Ok(()));
    assert_eq!(now("a send", input.send(2)).map_err(|error| error.into_error()), Err(finished()));
}

#[test]
fn finish_wakes_a_source_that_waits() {
    let (port, input) = port(1);
    let (bell, waker) = bell();
    assert!(port.poll_batch(&mut Context::from_waker(&waker), &mut Vec::new(), 1).is_pending());
    now("finish", input.finish()).expect("the input is open");
    assert_eq!(bell.rung(), 1);
    assert!(port.is_finished());
}

#[test]
fn a_stop_refuses_new_items_and_delivers_the_accepted_ones() {
    let (port, input) = port(2);
    now("send_all", input.send_all([0, 1])).expect("there is room");
    let mut waiting = Box::pin(input.send(2));
    assert!(poll(waiting.as_mut(), Waker::noop()).is_pending());
    port.close_to_senders();
    assert_eq!(now("the waiting send", waiting).expect_err("the input is closed").into_parts(), (2, closed()));
    assert_eq!(taken(&port, 1), (vec![0], Poll::Ready(PortEvent::Items)));
    assert_eq!(now("a send", input.send(3)).expect_err("the input is closed").into_item(), 3);
    assert_eq!(taken(&port, 9), (vec![1], Poll::Ready(PortEvent::Items)));
    assert_eq!(taken(&port, 9), (vec![], Poll::Ready(PortEvent::Finished)));
    assert_eq!(now("finish", input.finish()), Err(closed()));
}

#[test]
fn a_source_that_ends_throws_away_what_is_queued_and_says_how_much() {
    let (port, input) = port(5);
    now("send_all", input.send_all(0..3)).expect("there is room");
    assert_eq!(port.close(), 3);
    assert_eq!(port.close(), 0);
    assert_eq!(taken(&port, 9), (vec![], Poll::Ready(PortEvent::Finished)));
    let refused = now("send_all", input.send_all(5..8)).expect_err("the input is closed");
    assert_eq!(refused.into_parts(), (vec![5, 6, 7], closed()));
}

#[test]
fn vanished_senders_do_not_end_the_input_and_are_counted() {
    let (port, input) = port(5);
    assert_eq!(port.senders(), 0);
    now("a send", input.send(0)).expect("there is room");
    let other = input.clone();
    assert_eq!(port.senders(), 2);
    drop(input);
    drop(other);
    assert_eq!(port.senders(), 0);
    assert_eq!(taken(&port, 9).0, [0]);
    assert_eq!(taken(&port, 9).1, Poll::Pending);
}

#[test]
fn an_input_of_another_type_is_refused_with_both_names() {
    let (port, _) = port(1);
    let resolver: Arc<dyn InputResolver> = Arc::new(Fixed(port as Arc<dyn AnyInput>));
    let input = Input::<u32>::new(Arc::clone(&resolver), JobId::random(), "numbers");
    let (item, error) = now("a send", input.send(1)).expect_err("the types differ").into_parts();
    assert_eq!(item, 1);
    let text = "input `numbers` takes `u64`, not `u32`: the type is u32 here and u64 there";
    assert_eq!(error.to_string(), text);
}

#[test]
fn more_than_fits_is_sent_by_many_at_once_and_nothing_is_lost() {
    const EACH: u64 = 20_000;
    let (port, input) = port(100);
    let senders: Vec<_> = (0..4u64)
        .map(|sender| {
            let input = input.clone();
            let numbers = sender * EACH..(sender + 1) * EACH;
            start("a sender", move || {
                if sender % 2 == 0 {
                    input.blocking_send_all(numbers).expect("the input is open");
                } else {
                    numbers.for_each(|n| input.blocking_send(n).expect("the input is open"));
                }
            })
        })
        .collect();
    let source = start("the source", {
        let port = Arc::clone(&port);
        move || {
            let mut items = Vec::new();
            while block_on(poll_fn(|cx| port.poll_batch(cx, &mut items, 64))) == PortEvent::Items {
                assert!(port.queued() <= 100);
            }
            items
        }
    });
    senders.into_iter().for_each(Running::end);
    now("finish", input.finish()).expect("the input is open");
    let items = source.end();
    for sender in 0..4 {
        let range = sender * EACH..(sender + 1) * EACH;
        assert!(
            items.iter().copied().filter(|n| range.contains(n)).eq(range.clone()),
            "sender {sender} is out of order"
        );
    }
    assert_eq!(items.len() as u64, 4 * EACH);
}
