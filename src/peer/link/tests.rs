use proptest::prelude::*;

use super::*;

/// Notes what comes.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Sink for Notes {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        self.0.lock().push(format!("{items}:{}", bytes.len()));
    }

    fn mark(&self, mark: StreamMark) {
        self.0.lock().push(format!("{mark:?}"));
    }

    fn broken(&self, why: &Broken) {
        self.0.lock().push(why.message.clone());
    }
}

const CHANNEL: StreamId = StreamId::Channel(7);

fn pair() -> (Arc<Link>, Arc<Link>) {
    (Link::new(1, true), Link::new(0, true))
}

/// Has `to` read what `from` has to write.
fn carry(from: &Arc<Link>, to: &Arc<Link>) {
    let mut bytes = Vec::new();
    while from.poll_written(&Context::from_waker(Waker::noop()), &mut bytes).is_ready() && !bytes.is_empty() {
        assert_eq!(to.read(&bytes), Ok(bytes.len()));
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_is_sent_never_exceeds_the_credit_by_more_than_a_batch() {
    let (a, b) = pair();
    let notes = Arc::new(Notes::default());
    let (sender, receiver) = (a.sender(CHANNEL, 100), b.receiver(CHANNEL, 100, notes.clone()));
    assert_eq!(sender.offer(1, &[0; 60]), Offered::Taken);
    assert_eq!(sender.offer(1, &[0; 60]), Offered::Taken);
    assert_eq!(sender.offer(1, &[0; 1]), Offered::Full);
    sender.mark(StreamMark::Hold(3));
    carry(&a, &b);
    receiver.grant(10);
    carry(&b, &a);
    assert_eq!(sender.offer(1, &[0; 1]), Offered::Full, "small change is kept");
    receiver.grant(50);
    carry(&b, &a);
    assert_eq!(sender.offer(2, &[0; 500]), Offered::Taken);
    sender.mark(StreamMark::End);
    carry(&a, &b);
    assert_eq!(*notes.0.lock(), ["1:60", "1:60", "Hold(3)", "2:500", "End"]);
}

#[test]
fn what_comes_after_the_close_is_told_when_it_is_settled() {
    let (a, b) = pair();
    let notes = Arc::new(Notes::default());
    let (sender, receiver) = (a.sender(CHANNEL, 100), b.receiver(CHANNEL, 100, notes.clone()));
    assert_eq!(sender.offer(3, &[0; 9]), Offered::Taken);
    carry(&a, &b);
    assert_eq!(sender.offer(4, &[0; 9]), Offered::Taken);
    receiver.close();
    carry(&a, &b);
    let mut settle = a.settle(&[CHANNEL, StreamId::Channel(8)]);
    assert!(poll(&mut settle).is_pending());
    carry(&b, &a);
    assert_eq!(sender.offer(5, &[0; 9]), Offered::Closed);
    carry(&a, &b);
    carry(&b, &a);
    assert_eq!(poll(&mut settle), Poll::Ready(Ok(vec![4, 0])));
    assert_eq!(*notes.0.lock(), ["3:9"]);
}

#[test]
fn a_link_that_breaks_closes_its_senders_and_tells_its_sinks() {
    let (a, b) = pair();
    let notes = Arc::new(Notes::default());
    let (sender, _receiver) = (a.sender(CHANNEL, 100), a.receiver(CHANNEL, 100, notes.clone()));
    let mut settle = a.settle(&[]);
    a.break_off("cut");
    a.break_off("again");
    assert_eq!(sender.offer(1, &[0]), Offered::Closed);
    assert!(matches!(poll(&mut settle), Poll::Ready(Err(broken)) if broken.message == "cut"));
    assert_eq!(*notes.0.lock(), ["cut"]);
    assert!(!b.is_leaving());
}

#[test]
fn a_goodbye_is_the_last_that_is_said() {
    let (a, b) = pair();
    a.leave();
    a.ping();
    carry(&a, &b);
    assert!(b.is_leaving());
    let mut rest = Vec::new();
    assert_eq!(a.poll_written(&Context::from_waker(Waker::noop()), &mut rest), Poll::Ready(None));
    assert!(
        b.read(&{
            let mut more = Vec::new();
            frame::put(&mut more, true, Kind::Ping, StreamId::Calls, 0, &[]);
            more
        })
        .is_err()
    );
}

#[test]
fn what_breaks_a_rule_is_refused() {
    let (_, b) = pair();
    for (kind, count) in [(Kind::Batch, 1), (Kind::Grant, 1), (Kind::Close, 0)] {
        let mut bytes = Vec::new();
        frame::put(&mut bytes, true, kind, CHANNEL, count, &[]);
        assert!(b.read(&bytes).is_err(), "{kind:?} of a stream that nobody knows");
    }
}

fn encoded<T: serde::Serialize>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_into(values, &mut bytes).expect("numbers are encoded");
    bytes
}

/// Any frames, of streams that are known and of others.
fn frames() -> impl Strategy<Value = Vec<(Kind, u32, u64, Vec<u8>)>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(encoded(&[CHANNEL, StreamId::Calls])),
        Just(encoded(&[0u64, 3])),
    ];
    prop::collection::vec(
        (prop::sample::select(Kind::ALL.to_vec()), 6..9u32, prop_oneof![0..4u64, any::<u64>()], payload),
        0..20,
    )
}

proptest! {
    #[test]
    fn whatever_a_peer_says_is_taken_in_or_refused_however_it_is_cut(frames in frames(), part in 1..50usize) {
        let mut bytes = Vec::new();
        for (kind, number, count, payload) in frames {
            frame::put(&mut bytes, false, kind, StreamId::Channel(number), count, &payload);
        }
        let heard = [bytes.len().max(1), part].map(|part| {
            let (link, notes) = (Link::new(0, false), Arc::new(Notes::default()));
            let _receiver = link.receiver(CHANNEL, 100, notes.clone());
            let _sender = link.sender(CHANNEL, 100);
            let _settle = link.settle(&[CHANNEL]);
            let (mut waiting, mut end) = (Vec::new(), Ok(()));
            for part in bytes.chunks(part) {
                waiting.extend_from_slice(part);
                match link.read(&waiting) {
                    Ok(used) => drop(waiting.drain(..used)),
                    Err(error) => {
                        end = Err(error);
                        break;
                    }
                }
            }
            (notes.0.lock().clone(), end)
        });
        prop_assert_eq!(&heard[0], &heard[1]);
    }
}
