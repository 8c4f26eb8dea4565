//! How what two workers say lies on the wire. Pure: bytes in, frames out.
//!
//! ```text
//!  byte  0        4      5        6       8        12             20
//!        +--------+------+--------+-------+--------+--------------+------------------+--------+
//!        | length | kind | stream | check | stream | count        | payload ...      | CRC-32 |
//!        |        |      | kind   |       | number |              | `length` bytes   |        |
//!        +--------+------+--------+-------+--------+--------------+------------------+--------+
//!          u32      u8     u8       u16     u32      u64                               u32
//! ```
//!
//! All numbers are little endian. The CRC-32 (ISO 3309) covers header and payload, and the *check* is that of the header,
//! its own bytes taken as zero, folded to 16 bits: a changed length would otherwise have the reader wait for the rest of a
//! frame that never ends. On an encrypted connection the check is zero and there is no CRC.

use super::{StreamId, link::BATCH_BYTES_MAX};

pub(super) const HEADER_BYTES: usize = 20;
const SUM_BYTES: usize = 4;

/// Bytes of a frame at most.
pub(crate) const FRAME_BYTES_MAX: usize = HEADER_BYTES + BATCH_BYTES_MAX + SUM_BYTES;

/// What a frame is. `count` is a number of items, an epoch, a number of bytes, or that of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Batch = 1,
    End,
    Hold,
    Grant,
    Close,
    Settle,
    Settled,
    Ping,
    Goodbye,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Batch,
        Self::End,
        Self::Hold,
        Self::Grant,
        Self::Close,
        Self::Settle,
        Self::Settled,
        Self::Ping,
        Self::Goodbye,
    ];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A frame as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub kind: Kind,
    pub stream: StreamId,
    pub count: u64,
    pub payload: &'a [u8],
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame was changed on the way")]
    Changed,
    #[error("a frame of an unknown kind {0}")]
    Kind(u8),
    #[error("a frame of an unknown kind of stream {0}")]
    Stream(u8),
    #[error("a frame of {0} bytes")]
    TooLong(usize),
}

fn stream_parts(stream: StreamId) -> (u8, u32) {
    match stream {
        StreamId::Channel(number) => (1, number),
        StreamId::Output(number) => (2, number),
        StreamId::Input(number) => (3, number),
        StreamId::Calls => (4, 0),
        StreamId::Instances => (5, 0),
    }
}

fn stream_of(kind: u8, number: u32) -> Option<StreamId> {
    Some(match kind {
        1 => StreamId::Channel(number),
        2 => StreamId::Output(number),
        3 => StreamId::Input(number),
        4 => StreamId::Calls,
        5 => StreamId::Instances,
        _ => return None,
    })
}

fn fold(sum: u32) -> u16 {
    (sum ^ (sum >> 16)) as u16
}

/// Appends a frame. `sums`: the connection is in the clear.
///
/// # Panics
///
/// Panics if the payload has 4 GiB.
pub(super) fn put(out: &mut Vec<u8>, sums: bool, kind: Kind, stream: StreamId, count: u64, payload: &[u8]) {
    let (stream_kind, number) = stream_parts(stream);
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&u32::try_from(payload.len()).expect("a batch is far shorter").to_le_bytes());
    header[4] = kind as u8;
    header[5] = stream_kind;
    header[8..12].copy_from_slice(&number.to_le_bytes());
    header[12..20].copy_from_slice(&count.to_le_bytes());
    if sums {
        let check = fold(crc32fast::hash(&header));
        header[6..8].copy_from_slice(&check.to_le_bytes());
    }
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    if sums {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&header);
        sum.update(payload);
        out.extend_from_slice(&sum.finalize().to_le_bytes());
    }
}

/// The first frame in `bytes` and how many bytes it takes; `None` if it is not whole yet.
pub(super) fn take(bytes: &[u8], sums: bool) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if sums {
        let mut blank = *header;
        blank[6..8].fill(0);
        if fold(crc32fast::hash(&blank)) != u16::from_le_bytes([header[6], header[7]]) {
            return Err(FrameError::Changed);
        }
    }
    let length = number(0) as usize;
    if length > BATCH_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let kind = Kind::of(header[4]).ok_or(FrameError::Kind(header[4]))?;
    let stream = stream_of(header[5], number(8)).ok_or(FrameError::Stream(header[5]))?;
    let end = HEADER_BYTES + length;
    let whole = end + if sums { SUM_BYTES } else { 0 };
    let Some(frame) = bytes.get(..whole) else { return Ok(None) };
    if sums && crc32fast::hash(&frame[..end]).to_le_bytes() != frame[end..] {
        return Err(FrameError::Changed);
    }
    let count = u64::from(number(12)) | u64::from(number(16)) << 32;
    Ok(Some((Frame { kind, stream, count, payload: &frame[HEADER_BYTES..end] }, whole)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn streams() -> impl Strategy<Value = StreamId> {
        prop_oneof![
            any::<u32>().prop_map(StreamId::Channel),
            any::<u32>().prop_map(StreamId::Output),
            any::<u32>().prop_map(StreamId::Input),
            Just(StreamId::Calls),
            Just(StreamId::Instances),
        ]
    }

    #[test]
    fn the_bytes_of_a_frame_do_not_change() {
        let numbers: [(Kind, u8); 9] = [
            (Kind::Batch, 1),
            (Kind::End, 2),
            (Kind::Hold, 3),
            (Kind::Grant, 4),
            (Kind::Close, 5),
            (Kind::Settle, 6),
            (Kind::Settled, 7),
            (Kind::Ping, 8),
            (Kind::Goodbye, 9),
        ];
        assert_eq!(numbers.map(|(kind, _)| kind), Kind::ALL);
        for (kind, number) in numbers {
            let mut bytes = Vec::new();
            put(&mut bytes, false, kind, StreamId::Input(0x0102), 5, b"x");
            assert_eq!(bytes, [1, 0, 0, 0, number, 3, 0, 0, 2, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, b'x']);
        }
        let mut bytes = Vec::new();
        put(&mut bytes, true, Kind::Batch, StreamId::Channel(7), 3, b"abc");
        let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, "030000000101aa3f07000000030000000000000061626399de822d");
    }

    proptest! {
        #[test]
        fn frames_come_back_and_a_changed_bit_shows(
            kind in prop::sample::select(Kind::ALL.to_vec()),
            stream in streams(),
            count: u64,
            payload in prop::collection::vec(any::<u8>(), 0..300),
            sums: bool,
            bit: prop::sample::Index,
        ) {
            let mut bytes = Vec::new();
            put(&mut bytes, sums, kind, stream, count, &payload);
            for end in 0..bytes.len() {
                prop_assert_eq!(take(&bytes[..end], sums), Ok(None));
            }
            let frame = Frame { kind, stream, count, payload: &payload };
            prop_assert_eq!(take(&bytes, sums), Ok(Some((frame, bytes.len()))));
            if sums {
                let bit = bit.index(8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(take(&bytes, sums).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), sums: bool) {
            // Whatever it says of them.
            let _ = take(&bytes, sums);
        }
    }
}
