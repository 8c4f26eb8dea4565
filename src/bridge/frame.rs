//! Frames: how messages lie on the wire. Pure: bytes in, messages out; no I/O and no clock.
//!
//! ```text
//!  byte  0        4      5       6       8                16
//!        +--------+------+-------+-------+----------------+------------------+---------+
//!        | length | kind | flags | check | correlation id | payload ...      | CRC-32  |
//!        +--------+------+-------+-------+----------------+------------------+---------+
//!          u32      u8     u8      u16     u64              `length` bytes,    u32
//!                                                           at most 64 KiB
//!
//!  flags: bit 0      the message goes on in the next frame of its lane
//!         bits 1, 2  the lane: 0 control, 1 calls, 2 data
//! ```
//!
//! All numbers are little endian. A message that is longer than a frame takes several, of the same kind, lane and id;
//! all but the last have bit 0 set. Frames of different lanes may come in between, frames of the same lane may not.
//!
//! On a connection in the clear, the CRC-32 (ISO 3309, as in gzip) covers header and payload. The *check* is the CRC-32
//! of the header, its own bytes taken as zero, folded to 16 bits: a changed length would otherwise have the reader wait
//! for the rest of a frame that never ends. On an encrypted connection the check is zero and there is no CRC, because
//! the cipher authenticates every byte.

use std::fmt;

/// The bytes in front of each payload.
pub(super) const HEADER_BYTES: usize = 16;

/// The bytes behind each payload of a connection in the clear.
const SUM_BYTES: usize = 4;

/// The payload of one frame at most.
pub(super) const PAYLOAD_MAX: usize = 64 << 10;

/// Room that is offered to a read from a stream: little, for most connections are idle most of the time, and more once
/// reads fill it.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 128 << 10;

/// Reads in a row that leave most of the room empty, after which less is offered.
const SMALL_READS: u32 = 64;

/// Where the check of a header is.
const CHECK: std::ops::Range<usize> = 6..8;

const MORE: u8 = 0b001;
const LANE_SHIFT: u32 = 1;

/// Which of the three queues of a connection a message stands in. Messages of one lane keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Questions, replies, credit, signs of life: never behind anything large.
    Control,
    /// Messages to services, and their answers.
    Calls,
    /// Items of outputs and inputs.
    Data,
}

impl Lane {
    fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Control,
            1 => Self::Calls,
            2 => Self::Data,
            _ => return None,
        })
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Is the peer there? Answered by a pong of the same id.
    Ping,
    Pong,
    /// The last frame of a connection, with the reason.
    Goodbye,
    /// An encoded `FromClient` or `FromNode`.
    Message,
    /// The number of a route (8 bytes), then the encoded message. The id is the call's.
    Call,
    /// The encoded message. The id is the route's.
    Tell,
    /// The encoded reply to the call of this id.
    Answer,
    /// The encoded `CallError` of the call of this id.
    Failure,
    /// Items of an output: position and number (8 bytes each), then the encoded items. The id is the output's.
    Chunk,
    /// Items for an input, laid out as a chunk. The id is the input's.
    Items,
}

impl Kind {
    #[cfg(test)]
    const ALL: [Self; 10] = [
        Self::Ping,
        Self::Pong,
        Self::Goodbye,
        Self::Message,
        Self::Call,
        Self::Tell,
        Self::Answer,
        Self::Failure,
        Self::Chunk,
        Self::Items,
    ];

    fn number(self) -> u8 {
        self as u8 + 1
    }

    fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Ping,
            2 => Self::Pong,
            3 => Self::Goodbye,
            4 => Self::Message,
            5 => Self::Call,
            6 => Self::Tell,
            7 => Self::Answer,
            8 => Self::Failure,
            9 => Self::Chunk,
            10 => Self::Items,
            _ => return None,
        })
    }

    fn is_in(self, lane: Lane) -> bool {
        match self {
            Self::Ping | Self::Pong | Self::Goodbye => lane == Lane::Control,
            // What must not overtake calls or items goes with them.
            Self::Message => true,
            Self::Call | Self::Tell | Self::Answer | Self::Failure => lane == Lane::Calls,
            Self::Chunk | Self::Items => lane == Lane::Data,
        }
    }
}

/// What shows that a frame was changed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integrity {
    /// Sums in each frame: against accidents, on connections in the clear.
    Sums,
    /// The encryption below, against everybody.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "without the feature nothing is encrypted"))]
    Cipher,
}

impl Integrity {
    fn sum_bytes(self) -> usize {
        match self {
            Self::Sums => SUM_BYTES,
            Self::Cipher => 0,
        }
    }
}

/// Of a header whose own check is zero.
fn check_of(header: &[u8; HEADER_BYTES]) -> [u8; 2] {
    let sum = crc32fast::hash(header);
    let [a, b, c, d] = sum.to_le_bytes();
    [a ^ c, b ^ d]
}

/// Bytes of one message at most, by lane. Memory is taken as the bytes arrive, never by what a header claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameLimits {
    pub control_bytes_max: usize,
    pub call_bytes_max: usize,
    pub data_bytes_max: usize,
}

/// A message to a service, or its reply, at most: 16 MiB.
pub(super) const CALL_BYTES_MAX: usize = 16 << 20;

/// A question or a reply at most, the parameters of a job included: 64 MiB.
pub(super) const CONTROL_BYTES_MAX: usize = 64 << 20;

/// Room for most messages of the control lane, so that it need not be found in several steps.
pub(super) const MESSAGE_BYTES_USUAL: usize = 256;

/// The parameters of a job at most; what goes with them in the same message is short.
pub(crate) const PARAMETERS_BYTES_MAX: usize = CONTROL_BYTES_MAX - (64 << 10);

impl Default for FrameLimits {
    fn default() -> Self {
        // Data: one item of the largest size, or a run of smaller ones, and its head.
        Self {
            control_bytes_max: CONTROL_BYTES_MAX,
            call_bytes_max: CALL_BYTES_MAX + 8,
            data_bytes_max: crate::codec::VALUE_BYTES_MAX + PAYLOAD_MAX + (256 << 10),
        }
    }
}

impl FrameLimits {
    fn of(&self, lane: Lane) -> usize {
        match lane {
            Lane::Control => self.control_bytes_max,
            Lane::Calls => self.call_bytes_max,
            Lane::Data => self.data_bytes_max,
        }
    }
}

/// Why bytes are no frames. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame is of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame has the unknown flags {0:#010b}")]
    UnknownFlags(u8),
    #[error("the reserved bytes of a frame are not zero")]
    ReservedBytes,
    #[error("the header of a frame was damaged on the way: its check does not match")]
    DamagedHeader,
    #[error("a frame was damaged on the way: its sum does not match")]
    Damaged,
    #[error("a frame of {length} bytes is longer than {PAYLOAD_MAX}")]
    FrameTooLong { length: u32 },
    #[error("a message is longer than the {limit} bytes its lane allows")]
    MessageTooLong { limit: usize },
    #[error("a frame of kind {kind:?} in the lane {lane:?}")]
    WrongLane { kind: Kind, lane: Lane },
    #[error("a frame of kind {kind:?} inside a message of another kind or id")]
    Interleaved { kind: Kind },
    #[error("an empty frame that says that more follows")]
    EmptyPart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    length: usize,
    kind: Kind,
    lane: Lane,
    more: bool,
    id: u64,
}

impl Header {
    fn write(self, integrity: Integrity, into: &mut Vec<u8>) {
        let length = u32::try_from(self.length).expect("a payload fits into a frame");
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = self.kind.number();
        bytes[5] = u8::from(self.more) | ((self.lane as u8) << LANE_SHIFT);
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        if integrity == Integrity::Sums {
            let check = check_of(&bytes);
            bytes[CHECK].copy_from_slice(&check);
        }
        into.extend_from_slice(&bytes);
    }

    fn read(integrity: Integrity, bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let mut bytes = *bytes;
        if integrity == Integrity::Sums {
            let check = [bytes[6], bytes[7]];
            bytes[CHECK].fill(0);
            if check_of(&bytes) != check {
                return Err(FrameError::DamagedHeader);
            }
        }
        let [l0, l1, l2, l3, kind, flags, r0, r1, id @ ..] = bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = Kind::of(kind).ok_or(FrameError::UnknownKind(kind))?;
        let lane = Lane::of(flags >> LANE_SHIFT).ok_or(FrameError::UnknownFlags(flags))?;
        if [r0, r1] != [0, 0] {
            return Err(FrameError::ReservedBytes);
        }
        if length as usize > PAYLOAD_MAX {
            return Err(FrameError::FrameTooLong { length });
        }
        if !kind.is_in(lane) {
            return Err(FrameError::WrongLane { kind, lane });
        }
        let header = Self { length: length as usize, kind, lane, more: flags & MORE != 0, id: u64::from_le_bytes(id) };
        if header.more && header.length == 0 { Err(FrameError::EmptyPart) } else { Ok(header) }
    }
}

/// Appends a message, whose payload is `parts` one after the other, in as many frames as it takes.
pub(super) fn write_message(
    into: &mut Vec<u8>,
    integrity: Integrity,
    kind: Kind,
    lane: Lane,
    id: u64,
    parts: &[&[u8]],
) {
    let mut left: usize = parts.iter().map(|part| part.len()).sum();
    into.reserve(left + overhead(left));
    let mut parts = parts.iter().copied();
    let mut part: &[u8] = &[];
    loop {
        let length = left.min(PAYLOAD_MAX);
        left -= length;
        let begin = into.len();
        Header { length, kind, lane, more: left > 0, id }.write(integrity, into);
        let mut missing = length;
        while missing > 0 {
            if part.is_empty() {
                part = parts.next().expect("the lengths of the parts were added up");
                continue;
            }
            let (now, later) = part.split_at(missing.min(part.len()));
            into.extend_from_slice(now);
            missing -= now.len();
            part = later;
        }
        if integrity == Integrity::Sums {
            let sum = crc32fast::hash(&into[begin..]);
            into.extend_from_slice(&sum.to_le_bytes());
        }
        if left == 0 {
            return;
        }
    }
}

/// The length of the frame that `bytes` begin with. They were written by [`write_message`].
pub(super) fn frame_bytes(integrity: Integrity, bytes: &[u8]) -> usize {
    let length = bytes.first_chunk::<4>().expect("a frame was written here");
    HEADER_BYTES + u32::from_le_bytes(*length) as usize + integrity.sum_bytes()
}

/// What the frames of a message of so many bytes take besides its payload, at most.
pub(super) fn overhead(bytes: usize) -> usize {
    (HEADER_BYTES + SUM_BYTES) * (1 + bytes.div_ceil(PAYLOAD_MAX))
}

/// One message of the peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub kind: Kind,
    pub lane: Lane,
    pub id: u64,
    pub payload: &'a [u8],
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("id", &self.id)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Finds messages in a stream of bytes, however it is cut up.
pub(super) struct Decoder {
    limits: FrameLimits,
    integrity: Integrity,
    /// Bytes before `read` were looked at; those from `filled` on are room.
    buffer: Vec<u8>,
    read: usize,
    filled: usize,
    /// How long the buffer is to be.
    wanted: usize,
    small_reads: u32,
    partial: [Partial; 3],
    /// The lane whose message was handed out, and is to be forgotten.
    handed_out: Option<Lane>,
}

/// A message of which some frames have come.
#[derive(Default)]
struct Partial {
    of: Option<(Kind, u64)>,
    payload: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(limits: FrameLimits, integrity: Integrity) -> Self {
        Self {
            limits,
            integrity,
            buffer: Vec::new(),
            read: 0,
            filled: 0,
            wanted: READ_BYTES_MIN,
            small_reads: 0,
            partial: Default::default(),
            handed_out: None,
        }
    }

    /// Room for the next bytes; never empty. What was read into it is made known by [`filled`](Self::filled).
    pub(super) fn room(&mut self) -> &mut [u8] {
        // What is left is less than a frame, so it is moved seldom and little.
        self.buffer.copy_within(self.read..self.filled, 0);
        self.filled -= self.read;
        self.read = 0;
        // A part of a frame that has come is kept, whatever is wanted.
        let length = self.wanted.max(self.filled + READ_BYTES_MIN);
        if self.buffer.len() != length {
            self.buffer.resize(length, 0);
            self.buffer.shrink_to(length);
        }
        &mut self.buffer[self.filled..]
    }

    /// The first `count` bytes of the room are the next ones of the stream.
    pub(super) fn filled(&mut self, count: usize) {
        let room = self.buffer.len() - self.filled;
        self.filled += count;
        if count == room {
            self.wanted = (self.buffer.len() * 2).min(READ_BYTES_MAX);
            self.small_reads = 0;
        } else if count < room / 8 {
            self.small_reads += 1;
            if self.small_reads >= SMALL_READS {
                self.wanted = (self.wanted / 2).max(READ_BYTES_MIN);
                self.small_reads = 0;
            }
        } else {
            self.small_reads = 0;
        }
    }

    /// What the connection holds of the peer's bytes, with the room for more.
    #[cfg(any(test, fuzzing))]
    pub(super) fn bytes_held(&self) -> usize {
        self.buffer.capacity() + self.partial.iter().map(|partial| partial.payload.capacity()).sum::<usize>()
    }

    /// The next message, if it is there. Ask until it is not, before more bytes are read.
    pub(super) fn next(&mut self) -> Result<Option<Message<'_>>, FrameError> {
        if let Some(lane) = self.handed_out.take() {
            self.partial[lane as usize] = Partial::default();
        }
        loop {
            let bytes = &self.buffer[self.read..self.filled];
            let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let header = Header::read(self.integrity, header)?;
            let whole = HEADER_BYTES + header.length;
            if bytes.len() < whole + self.integrity.sum_bytes() {
                return Ok(None);
            }
            let (frame, rest) = bytes.split_at(whole);
            if self.integrity == Integrity::Sums
                && rest.first_chunk::<SUM_BYTES>() != Some(&crc32fast::hash(frame).to_le_bytes())
            {
                return Err(FrameError::Damaged);
            }
            let from = self.read + HEADER_BYTES;
            let to = from + header.length;
            self.read = to + self.integrity.sum_bytes();
            let Header { kind, lane, id, .. } = header;
            let partial = &mut self.partial[lane as usize];
            let limit = self.limits.of(lane);
            if partial.payload.len() + header.length > limit {
                return Err(FrameError::MessageTooLong { limit });
            }
            match partial.of {
                None if !header.more => {
                    return Ok(Some(Message { kind, lane, id, payload: &self.buffer[from..to] }));
                }
                None => partial.of = Some((kind, id)),
                Some(begun) if begun == (kind, id) => {}
                Some(_) => return Err(FrameError::Interleaved { kind }),
            }
            partial.payload.extend_from_slice(&self.buffer[from..to]);
            if !header.more {
                self.handed_out = Some(lane);
                return Ok(Some(Message { kind, lane, id, payload: &self.partial[lane as usize].payload }));
            }
        }
    }
}

#[cfg(test)]
mod tests;
