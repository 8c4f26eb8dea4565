//! The connection under a link: reads and writes it, asks whether the other end is there, and ends it.
//!
//! It works over any byte stream. The sink of a stream never makes it wait, so that there is always
//! somebody who reads, and one that is silent is gone.

use std::{
    io,
    mem::take,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    bridge::{connection::Heartbeat, stream::Stream},
    host::{Host, Sleep},
    peer::{FRAME_BYTES_MAX, Link, Standing},
};

/// How long what was queued before the goodbye may take to be written, and the other end to close.
pub(super) const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// The room for what comes begins with so much.
const ROOM_MIN: usize = 4 << 10;

/// It grows to this with use, and beyond for a frame that does not fit.
const ROOM_MAX: usize = 256 << 10;

/// After so many bytes in a row the other links of the thread have their turn.
const TURN_BYTES: usize = 1 << 20;

/// What an idle link may keep for bytes to write.
const SPARE_MAX: usize = 1 << 20;

/// Runs one connection, to the end of its link. Dropping it breaks the link off.
pub(super) struct Drive {
    link: Arc<Link>,
    stream: Box<dyn Stream>,
    host: Host,
    heartbeat: Heartbeat,
    incoming: Incoming,
    /// The other end has closed its side.
    has_ended: bool,
    outgoing: Outgoing,
    /// When bytes came last.
    heard: Instant,
    ticked: Instant,
    tick: Option<Alarm>,
    farewell: Option<Alarm>,
}

/// A deadline. It is asked only once it has passed, for each question takes a lock that all deadlines share.
struct Alarm {
    at: Instant,
    sleep: Sleep,
    is_set: bool,
}

impl Alarm {
    fn new(host: &Host, at: Instant) -> Self {
        Self { at, sleep: host.sleep_until(at), is_set: false }
    }

    fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_set && now < self.at {
            return Poll::Pending;
        }
        self.is_set = true;
        Pin::new(&mut self.sleep).poll(cx)
    }
}

impl Drive {
    pub(super) fn new(link: &Arc<Link>, stream: Box<dyn Stream>, host: &Host, heartbeat: Heartbeat) -> Self {
        let now = host.now();
        Self {
            link: Arc::clone(link),
            stream,
            host: host.clone(),
            heartbeat,
            incoming: Incoming::default(),
            has_ended: false,
            outgoing: Outgoing::default(),
            heard: now,
            ticked: now,
            tick: Some(Alarm::new(host, now + heartbeat.interval)),
            farewell: None,
        }
    }

    /// Ready when the connection is at its end; the error says why, if nobody wanted that.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let standing = self.link.poll_standing(cx);
        if standing == Standing::Over {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(Err(error)) = self.poll_read(cx) {
            return Poll::Ready(Err(error));
        }
        let now = self.host.now();
        if standing == Standing::Leaving {
            let farewell = self.farewell.get_or_insert_with(|| Alarm::new(&self.host, now + FAREWELL_LIMIT));
            if farewell.poll(now, cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_tick(now, cx)?;
        let written = self.outgoing.poll_write(&self.link, &mut self.stream, cx).map_err(|error| error.to_string())?;
        if !self.has_ended {
            return Poll::Pending;
        }
        match (standing, self.link.is_leaving()) {
            // What this end has to say may be wanted there, although nothing more comes from there.
            (Standing::Leaving, _) => written.map(Ok),
            (_, true) => Poll::Ready(Ok(())),
            (_, false) => Poll::Ready(Err("it was closed at the other end".to_owned())),
        }
    }

    /// Ready with an error only.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let mut turn = TURN_BYTES;
        while !self.has_ended {
            let mut room = ReadBuf::new(self.incoming.room());
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room)).map_err(|error| error.to_string())?;
            let count = room.filled().len();
            self.has_ended = count == 0;
            self.heard = self.host.now();
            self.incoming.filled(count);
            let used = self.link.read(self.incoming.bytes())?;
            self.incoming.used(used);
            turn = turn.saturating_sub(count);
            if turn == 0 {
                cx.waker().wake_by_ref();
                break;
            }
        }
        Poll::Pending
    }

    fn poll_tick(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<(), String> {
        let Some(tick) = &mut self.tick else { return Ok(()) };
        if tick.poll(now, cx).is_pending() {
            return Ok(());
        }
        let Heartbeat { interval, timeout } = self.heartbeat;
        let mut next = Alarm::new(&self.host, now + interval);
        // Once the host is closed a sleep takes no time, and the hub is about to be.
        self.tick = (!self.host.is_closed() && next.poll(now, cx).is_pending()).then_some(next);
        // This process was itself stopped for a while: what the other end sent meanwhile has yet to be read.
        if now.saturating_duration_since(self.ticked) >= interval + timeout / 2 {
            self.heard = now;
        }
        self.ticked = now;
        let silent = now.saturating_duration_since(self.heard);
        if silent >= timeout {
            return Err(format!("it was silent for {:.1} s", silent.as_secs_f64()));
        }
        if Arc::strong_count(&self.link) == 1 {
            return Err("nobody uses it any more".to_owned());
        }
        if !take(&mut self.outgoing.has_written) {
            self.link.ping();
        }
        self.incoming.shrink();
        self.outgoing.shrink();
        Ok(())
    }
}

impl Future for Drive {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match ready!(this.poll_end(cx)) {
            Err(error) if !this.link.is_leaving() => this.link.break_off(error),
            _ => this.link.part(),
        }
        Poll::Ready(())
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.link.break_off("it is not kept up any more");
    }
}

/// Bytes that came.
struct Incoming {
    /// All of it is initialised.
    bytes: Vec<u8>,
    filled: usize,
    /// The most that it was filled since it was last [shrunk](Self::shrink).
    most: usize,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { bytes: vec![0; ROOM_MIN], filled: 0, most: 0 }
    }
}

impl Incoming {
    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    fn filled(&mut self, count: usize) {
        self.filled += count;
        self.most = self.most.max(self.filled);
    }

    /// So many bytes in front are taken in. There is room for more afterwards: more than the largest frame never waits to
    /// be whole.
    fn used(&mut self, count: usize) {
        let was_full = self.filled == self.bytes.len();
        if count > 0 {
            self.bytes.copy_within(count..self.filled, 0);
            self.filled -= count;
        }
        let room = self.bytes.len();
        if self.filled == room || was_full && room < ROOM_MAX {
            self.bytes.resize((2 * room).min(FRAME_BYTES_MAX + 1), 0);
        }
    }

    /// Gives back what was not needed of late.
    fn shrink(&mut self) {
        let needed = take(&mut self.most).max(self.filled).max(ROOM_MIN).next_power_of_two();
        if 2 * needed < self.bytes.len() {
            self.bytes.truncate(needed);
            self.bytes.shrink_to_fit();
        }
    }
}

/// Bytes that go.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    /// The stream may hold some back.
    unflushed: bool,
    /// Since the last tick.
    has_written: bool,
    /// The goodbye is written.
    is_done: bool,
    is_shut: bool,
}

impl Outgoing {
    /// Ready when all is written and the stream shut.
    fn poll_write(&mut self, link: &Link, stream: &mut Box<dyn Stream>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
                let count = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += count;
                (self.has_written, self.unflushed) = (true, true);
            } else if self.unflushed {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                self.unflushed = false;
            } else if !self.is_done {
                self.written = 0;
                self.is_done = ready!(link.poll_written(cx, &mut self.bytes)).is_none();
            } else if !self.is_shut {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                self.is_shut = true;
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Gives back what an idle link does not need. The link has a second such vector, which comes in exchange for this one.
    fn shrink(&mut self) {
        if self.written == self.bytes.len() && self.bytes.capacity() > SPARE_MAX {
            (self.bytes, self.written) = (Vec::new(), 0);
        }
    }
}

#[cfg(test)]
mod tests;
