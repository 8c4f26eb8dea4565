use std::sync::mpsc;

use futures::task::noop_waker;

use super::*;
use crate::bridge::frame::HEADER_BYTES;

/// Takes so many bytes, and is then not ready until it is given room.
struct Narrow {
    room: Arc<Mutex<usize>>,
    written: mpsc::Sender<u8>,
}

impl AsyncWrite for Narrow {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut room = self.room.lock();
        let count = bytes.len().min(*room);
        if count == 0 {
            return Poll::Pending;
        }
        *room -= count;
        bytes[..count].iter().for_each(|byte| self.written.send(*byte).expect("the test listens"));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn narrow(room: usize) -> (Arc<Outbound>, Arc<Mutex<usize>>, mpsc::Receiver<u8>) {
    let (written, received) = mpsc::channel();
    let room = Arc::new(Mutex::new(room));
    (Outbound::new(Narrow { room: Arc::clone(&room), written }, Integrity::Cipher), room, received)
}

#[test]
fn whoever_flushes_writes_what_the_stream_takes_and_the_task_the_rest() {
    let (outbound, room, received) = narrow(10);
    outbound.push_and_flush(Kind::Call, Lane::Calls, 1, &[b"12345678"]);
    assert_eq!(received.try_iter().count(), 10);
    assert_eq!(outbound.backlog(), HEADER_BYTES + 8, "it is not all written");
    *room.lock() = 1000;
    let waker = noop_waker();
    assert!(outbound.poll_write(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!((received.try_iter().count(), outbound.backlog()), (HEADER_BYTES + 8 - 10, 0));
}

#[test]
fn frames_that_gather_go_out_together_and_in_whole() {
    let (outbound, _, received) = narrow(usize::MAX);
    for id in 0..10_000 {
        outbound.push(Kind::Tell, Lane::Calls, id, &[&[1; 84]]);
    }
    assert_eq!(outbound.backlog(), 1_000_000);
    // A round takes a part of them, in whole frames.
    outbound.flush();
    let first = received.try_iter().count();
    assert!((ROUND_CALLS_BYTES..ROUND_CALLS_BYTES + 2 * SEGMENT_BYTES).contains(&first) && first % 100 == 0, "{first}");
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    let mut drained = std::pin::pin!(outbound.drained(1000));
    assert!(drained.as_mut().poll(&mut cx).is_pending());
    assert!(outbound.poll_write(&mut cx).is_pending());
    assert!(drained.as_mut().poll(&mut cx).is_ready());
    assert_eq!(first + received.try_iter().count(), 1_000_000);
}

#[test]
fn after_the_last_message_nothing_is_taken_and_the_stream_ends() {
    let (outbound, _, received) = narrow(usize::MAX);
    outbound.finish(Kind::Goodbye, Lane::Control, 0, &[]);
    outbound.push(Kind::Ping, Lane::Control, 0, &[]);
    let waker = noop_waker();
    assert!(matches!(outbound.poll_write(&mut Context::from_waker(&waker)), Poll::Ready(Ok(()))));
    assert_eq!(received.try_iter().count(), HEADER_BYTES);
    outbound.abandon();
    outbound.push_and_flush(Kind::Ping, Lane::Control, 0, &[]);
    assert_eq!(received.try_iter().count(), 0);
}
