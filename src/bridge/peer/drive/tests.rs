use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::{join, join3};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::{
    bridge::stream::{ReadHalf, WriteHalf},
    peer::{BATCH_BYTES_MAX, Broken, Offered, Sink, StreamId, StreamMark},
};

const CALM: Heartbeat = Heartbeat { interval: Duration::from_secs(60), timeout: Duration::from_secs(300) };
const CHANNEL: StreamId = StreamId::Channel(7);
const LIMIT: Duration = Duration::from_secs(20);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("it ends") })
}

fn host() -> &'static Host {
    Host::shared_by_tests()
}

/// Notes what comes, and keeps the bytes.
#[derive(Default)]
struct Notes {
    heard: Mutex<Vec<String>>,
    bytes: Mutex<Vec<u8>>,
}

impl Sink for Notes {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        self.heard.lock().push(items.to_string());
        self.bytes.lock().extend(bytes);
    }

    fn mark(&self, mark: StreamMark) {
        self.heard.lock().push(format!("{mark:?}"));
    }

    fn broken(&self, _: &Broken) {
        self.heard.lock().push("broken".to_owned());
    }
}

/// What happens to what is read, at some byte.
#[derive(Clone, Copy)]
enum Fault {
    None,
    /// The stream ends there.
    Cut(usize),
    /// One bit of it is another one.
    Change(usize),
}

struct Faulty {
    inner: DuplexStream,
    fault: Fault,
    read: Arc<AtomicUsize>,
}

impl AsyncRead for Faulty {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let read = this.read.load(Ordering::Relaxed);
        if let Fault::Cut(at) = this.fault {
            let mut part = vec![0; buf.remaining().min(at - read)];
            if part.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut part = ReadBuf::new(&mut part);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
            buf.put_slice(part.filled());
        } else {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        }
        let new = &mut buf.filled_mut()[before..];
        if let Fault::Change(at) = this.fault
            && let Some(byte) = at.checked_sub(read).and_then(|at| new.get_mut(at))
        {
            *byte ^= 1 << (at % 8);
        }
        this.read.fetch_add(new.len(), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Stream for Faulty {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        Box::new(self.inner).halves()
    }
}

fn driven(link: &Arc<Link>, stream: impl Stream + 'static, heartbeat: Heartbeat) -> Drive {
    Drive::new(link, Box::new(stream), host(), heartbeat)
}

/// Both ends of a link with a stream from the first to the second, and who notes what comes there.
struct Ends {
    here: Arc<Link>,
    there: Arc<Link>,
    sender: crate::peer::Sender,
    receiver: crate::peer::Receiver,
    notes: Arc<Notes>,
}

fn ends(credit: u64) -> Ends {
    let (here, there, notes) = (Link::new(1, true), Link::new(0, true), Arc::new(Notes::default()));
    let (sender, receiver) = (here.sender(CHANNEL, credit), there.receiver(CHANNEL, credit, notes.clone()));
    Ends { here, there, sender, receiver, notes }
}

#[test]
fn what_is_queued_when_a_worker_leaves_is_written_and_both_end() {
    let Ends { here, there, sender, receiver, notes } = ends(8 << 20);
    let (one, other) = duplex(64 << 10);
    for number in 0..5 {
        assert_eq!(sender.offer(number, &vec![number as u8; 1 << 20]), Offered::Taken);
    }
    here.leave();
    block_on(join(driven(&here, one, CALM), driven(&there, other, CALM)));
    assert_eq!(*notes.heard.lock(), ["0", "1", "2", "3", "4"], "and nobody is told of a failure");
    assert!(notes.bytes.lock().chunks(1 << 20).zip(0..).all(|(bytes, number)| bytes == vec![number; 1 << 20]));
    assert!(there.is_leaving() && there.broken().is_some(), "nothing can be said over it any more");
    drop(receiver);
}

#[test]
fn when_both_leave_at_once_what_each_had_queued_arrives() {
    let Ends { here, there, sender, receiver: _receiver, notes } = ends(8 << 20);
    let back = Arc::new(Notes::default());
    let (reply, _replies) = (there.sender(CHANNEL, 8 << 20), here.receiver(CHANNEL, 8 << 20, back.clone()));
    let (one, other) = duplex(64 << 10);
    assert_eq!(sender.offer(1, &vec![0; 5 << 20]), Offered::Taken);
    assert_eq!(reply.offer(2, &vec![0; 3 << 20]), Offered::Taken);
    here.leave();
    there.leave();
    block_on(join(driven(&here, one, CALM), driven(&there, other, CALM)));
    assert_eq!((notes.bytes.lock().len(), back.bytes.lock().len()), (5 << 20, 3 << 20));
}

/// A session with everything in it, where what the sender reads, or the receiver, has a fault; and how much each has read.
fn session(at_sender: Fault, at_receiver: Fault) -> (Ends, [usize; 2]) {
    let ends = ends(1000);
    let (one, other) = duplex(100);
    let counts: [Arc<AtomicUsize>; 2] = Default::default();
    let one = Faulty { inner: one, fault: at_sender, read: Arc::clone(&counts[0]) };
    let other = Faulty { inner: other, fault: at_receiver, read: Arc::clone(&counts[1]) };
    let talk = async {
        for number in 1..=3u8 {
            let _ = ends.sender.offer(u64::from(number), &[number; 90]);
            ends.sender.mark(StreamMark::Hold(u32::from(number)));
        }
        let _ = ends.here.settle(&[CHANNEL]).await;
        ends.receiver.grant(270);
        let _ = ends.there.settle(&[]).await;
        ends.sender.mark(StreamMark::End);
        let _ = ends.here.settle(&[CHANNEL]).await;
        ends.here.leave();
        ends.there.leave();
    };
    block_on(join3(talk, driven(&ends.here, one, CALM), driven(&ends.there, other, CALM)));
    (ends, counts.map(|count| count.load(Ordering::Relaxed)))
}

/// What a session brings.
const HEARD: [&str; 7] = ["1", "Hold(1)", "2", "Hold(2)", "3", "Hold(3)", "End"];

/// Checks that what came is the beginning of what was sent, and passes for the whole only if it is.
fn check(ends: &Ends, context: &str) {
    let heard = ends.notes.heard.lock();
    let (told, rest): (Vec<_>, Vec<_>) = heard.iter().partition(|heard| *heard == "broken");
    assert_eq!(rest, HEARD[..rest.len()], "{context}");
    assert!(!told.is_empty() || rest == HEARD, "{context}: a part looks whole");
    let bytes: Vec<u8> = [1, 2, 3].into_iter().flat_map(|number| [number; 90]).collect();
    assert!(bytes.starts_with(&ends.notes.bytes.lock()), "{context}");
    assert!(ends.here.broken().is_some() && ends.there.broken().is_some(), "{context}");
}

/// A session for each byte that either end reads.
fn for_each_byte(fault: fn(usize) -> Fault) {
    let (whole, counts) = session(Fault::None, Fault::None);
    check(&whole, "without a fault");
    assert_eq!(*whole.notes.heard.lock(), HEARD);
    assert!(counts[0] > 50 && counts[1] > 400, "{counts:?}");
    for at in 0..counts[0] {
        check(&session(fault(at), Fault::None).0, &format!("byte {at} of those to the sender"));
    }
    for at in 0..counts[1] {
        check(&session(Fault::None, fault(at)).0, &format!("byte {at} of those to the receiver"));
    }
}

#[test]
fn a_connection_that_is_cut_at_any_byte_breaks_both_ends_and_never_ends_a_stream() {
    for_each_byte(Fault::Cut);
}

#[test]
fn a_bit_that_is_changed_on_the_way_breaks_the_link_and_no_wrong_batch_is_seen() {
    for_each_byte(Fault::Change);
}

#[test]
fn who_is_silent_is_given_up_and_pinged_before() {
    let link = Link::new(1, true);
    let (one, mut other) = duplex(1 << 10);
    let heartbeat = Heartbeat { interval: Duration::from_millis(20), timeout: Duration::from_millis(200) };
    let mut pings = Vec::new();
    block_on(join(driven(&link, one, heartbeat), async { other.read_to_end(&mut pings).await.expect("it ends") }));
    let broken = link.broken().expect("it is broken off");
    assert!(broken.message.contains("silent"), "{broken}");
    let reader = Link::new(0, true);
    assert_eq!(reader.read(&pings), Ok(pings.len()));
    assert!(pings.len() >= 24, "{} bytes", pings.len());
}

#[test]
fn two_that_have_nothing_to_say_stay_connected_and_hold_little() {
    let Ends { here, there, sender, receiver, notes } = ends(64 << 20);
    let heartbeat = Heartbeat { interval: Duration::from_millis(10), timeout: Duration::from_millis(500) };
    let (one, other) = duplex(64 << 10);
    let (mut one, mut other) = (driven(&here, one, heartbeat), driven(&there, other, heartbeat));
    assert_eq!(sender.offer(1, &vec![7; BATCH_BYTES_MAX]), Offered::Taken);
    let is_idle =
        |drive: &Drive| drive.incoming.bytes.len() == ROOM_MIN && drive.outgoing.bytes.capacity() <= SPARE_MAX;
    let mut grown = 0;
    block_on(async {
        let mut settle = here.settle(&[CHANNEL]);
        let mut arrived = false;
        std::future::poll_fn(|cx| {
            assert!(Pin::new(&mut one).poll(cx).is_pending() && Pin::new(&mut other).poll(cx).is_pending());
            grown = grown.max(other.incoming.bytes.len());
            arrived |= Pin::new(&mut settle).poll(cx).is_ready();
            if arrived && is_idle(&one) && is_idle(&other) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let idle = host().sleep(2 * heartbeat.timeout);
        tokio::select! {
            () = idle => {}
            _ = join(one, other) => panic!("{:?} {:?}", here.broken(), there.broken()),
        }
    });
    assert!(grown > BATCH_BYTES_MAX && grown <= FRAME_BYTES_MAX + 1, "{grown}");
    assert_eq!(notes.bytes.lock().len(), BATCH_BYTES_MAX);
    drop(receiver);
}

#[test]
fn who_was_stopped_itself_listens_again_before_it_gives_others_up() {
    let (here, there) = (Link::new(1, true), Link::new(0, true));
    let heartbeat = Heartbeat { interval: Duration::from_millis(20), timeout: Duration::from_millis(400) };
    let (one, other) = duplex(1 << 10);
    let (one, other) = (driven(&here, one, heartbeat), driven(&there, other, heartbeat));
    block_on(async {
        let mut both = std::pin::pin!(join(one, other));
        for stop in [true, true, false] {
            tokio::select! {
                _ = &mut both => break,
                () = host().sleep(3 * heartbeat.interval) => {}
            }
            if stop {
                // As if the process was stopped: both tick late, and neither finds anything to read.
                std::thread::park_timeout(2 * heartbeat.timeout);
            }
        }
        assert_eq!((here.broken(), there.broken()), (None, None));
    });
}

#[test]
fn a_link_that_nobody_has_any_more_is_broken_off() {
    let (here, there) = (Link::new(1, true), Link::new(0, true));
    let (one, other) = duplex(1 << 10);
    let heartbeat = Heartbeat { interval: Duration::from_millis(20), timeout: Duration::from_secs(60) };
    let drive = driven(&here, one, heartbeat);
    drop(here);
    block_on(join(drive, driven(&there, other, CALM)));
    assert!(there.broken().is_some() && !there.is_leaving());
}

#[test]
fn a_connection_that_is_not_kept_up_any_more_breaks_its_link() {
    let Ends { here, there, sender, receiver: _receiver, notes } = ends(100);
    let (one, other) = duplex(1 << 10);
    drop(driven(&here, one, CALM));
    assert_eq!(sender.offer(1, &[1]), Offered::Closed);
    block_on(driven(&there, other, CALM));
    assert_eq!(*notes.heard.lock(), ["broken"]);
}

#[test]
fn a_farewell_that_nobody_reads_does_not_last() {
    let Ends { here, sender, .. } = ends(1 << 20);
    let (one, _other) = duplex(1 << 10);
    assert_eq!(sender.offer(1, &vec![0; 1 << 20]), Offered::Taken);
    let drive = driven(&here, one, CALM);
    block_on(join(drive, async {
        // By then nothing more can be written.
        host().sleep(Duration::from_millis(20)).await;
        here.leave();
    }));
    assert!(here.broken().is_some());
}

#[test]
fn what_is_no_frame_breaks_the_link() {
    let (here, (one, mut other)) = (Link::new(1, true), duplex(1 << 10));
    let said = async {
        other.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.expect("there is room");
        other.read_to_end(&mut Vec::new()).await
    };
    let _ = block_on(join(driven(&here, one, CALM), said));
    let broken = here.broken().expect("it is broken off");
    assert!(broken.message.contains("changed"), "{broken}");
}
