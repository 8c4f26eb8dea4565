use proptest::prelude::*;

use super::*;

type Decoded = Result<Vec<(Kind, Lane, u64, Vec<u8>)>, FrameError>;

/// Feeds the bytes in pieces of these lengths, over and over, and gives back what came out.
fn decoded(bytes: &[u8], pieces: &[usize], limits: FrameLimits) -> Decoded {
    decoded_with(Integrity::Sums, bytes, pieces, limits)
}

fn decoded_with(integrity: Integrity, bytes: &[u8], pieces: &[usize], limits: FrameLimits) -> Decoded {
    let mut decoder = Decoder::new(limits, integrity);
    let mut messages = Vec::new();
    let mut rest = bytes;
    for length in pieces.iter().cycle() {
        while let Some(Message { kind, lane, id, payload }) = decoder.next()? {
            messages.push((kind, lane, id, payload.to_vec()));
        }
        if rest.is_empty() {
            return Ok(messages);
        }
        let room = decoder.room();
        let (now, later) = rest.split_at((*length).min(room.len()).min(rest.len()));
        room[..now.len()].copy_from_slice(now);
        decoder.filled(now.len());
        rest = later;
    }
    Ok(messages)
}

fn whole(bytes: &[u8]) -> Decoded {
    decoded(bytes, &[usize::MAX], FrameLimits::default())
}

fn lane_of(kind: Kind) -> Lane {
    [Lane::Control, Lane::Calls, Lane::Data].into_iter().find(|lane| kind.is_in(*lane)).expect("each kind has a lane")
}

#[test]
fn the_bytes_of_every_kind_do_not_change() {
    let golden: [(Kind, [u8; 2]); 10] = [
        (Kind::Ping, [1, 0b000]),
        (Kind::Pong, [2, 0b000]),
        (Kind::Goodbye, [3, 0b000]),
        (Kind::Message, [4, 0b000]),
        (Kind::Call, [5, 0b010]),
        (Kind::Tell, [6, 0b010]),
        (Kind::Answer, [7, 0b010]),
        (Kind::Failure, [8, 0b010]),
        (Kind::Chunk, [9, 0b100]),
        (Kind::Items, [10, 0b100]),
    ];
    assert_eq!(golden.map(|(kind, _)| kind), Kind::ALL);
    for (kind, [number, flags]) in golden {
        let mut bytes = Vec::new();
        write_message(&mut bytes, Integrity::Sums, kind, lane_of(kind), 0x0102_0304_0506_0708, &[b"a", b"", b"bc"]);
        let expected = [3, 0, 0, 0, number, flags, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, b'a', b'b', b'c'];
        let mut sealed = Vec::new();
        write_message(&mut sealed, Integrity::Cipher, kind, lane_of(kind), 0x0102_0304_0506_0708, &[b"a", b"", b"bc"]);
        assert_eq!(sealed, expected, "{kind:?}");
        let header = crc32fast::hash(&expected[..HEADER_BYTES]);
        let mut summed = expected.to_vec();
        summed[6..8].copy_from_slice(&((header >> 16) as u16 ^ header as u16).to_le_bytes());
        let sum = crc32fast::hash(&summed);
        summed.extend(sum.to_le_bytes());
        assert_eq!(bytes, summed, "{kind:?}");
        assert_eq!(frame_bytes(Integrity::Sums, &bytes), bytes.len());
        assert_eq!(frame_bytes(Integrity::Cipher, &sealed), sealed.len());
        let message = (kind, lane_of(kind), 0x0102_0304_0506_0708, b"abc".to_vec());
        assert_eq!(whole(&bytes), Ok(vec![message]));
    }
}

/// The sums that a frame would have if it had been written as it is.
fn resum(bytes: &mut [u8]) {
    bytes[CHECK].fill(0);
    let check = check_of(bytes.first_chunk().expect("it has a header"));
    bytes[CHECK].copy_from_slice(&check);
    let end = bytes.len() - SUM_BYTES;
    let sum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn the_bytes_of_a_frame_in_the_clear_do_not_change() {
    let mut bytes = Vec::new();
    write_message(&mut bytes, Integrity::Sums, Kind::Tell, Lane::Calls, 7, &[b"abc"]);
    let expected = [3, 0, 0, 0, 6, 2, 120, 146, 7, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c', 160, 97, 135, 57];
    assert_eq!(bytes, expected);
}

#[test]
fn every_changed_bit_and_every_two_of_a_header_are_noticed_before_the_next_frame() {
    let mut bytes = Vec::new();
    write_message(&mut bytes, Integrity::Sums, Kind::Tell, Lane::Calls, 7, &[b"abcdefgh"]);
    let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    for one in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        flip(&mut changed, one);
        // With nothing behind it: no change may have the reader wait for more.
        let expected = if one < HEADER_BYTES * 8 { FrameError::DamagedHeader } else { FrameError::Damaged };
        assert_eq!(whole(&changed), Err(expected), "bit {one}");
        for other in one + 1..HEADER_BYTES * 8 {
            let mut header = *changed.first_chunk().expect("it has a header");
            flip(&mut header, other);
            assert_eq!(
                Header::read(Integrity::Sums, &header),
                Err(FrameError::DamagedHeader),
                "bits {one} and {other}"
            );
        }
    }
}

#[test]
fn a_long_message_takes_several_frames() {
    let payload: Vec<u8> = (0..PAYLOAD_MAX * 2 + 5).map(|n| n as u8).collect();
    let mut bytes = Vec::new();
    write_message(&mut bytes, Integrity::Sums, Kind::Chunk, Lane::Data, 7, &[&payload[..10], &payload[10..]]);
    assert_eq!(bytes.len(), payload.len() + 3 * (HEADER_BYTES + SUM_BYTES));
    assert!(bytes.len() <= payload.len() + overhead(payload.len()));
    assert_eq!(bytes[5], 0b101, "more follows");
    assert_eq!(bytes[2 * (HEADER_BYTES + PAYLOAD_MAX + SUM_BYTES) + 5], 0b100, "nothing follows");
    assert_eq!(whole(&bytes), Ok(vec![(Kind::Chunk, Lane::Data, 7, payload)]));
    let mut exact = Vec::new();
    write_message(&mut exact, Integrity::Sums, Kind::Chunk, Lane::Data, 7, &[&vec![1; PAYLOAD_MAX]]);
    assert_eq!(exact.len(), HEADER_BYTES + PAYLOAD_MAX + SUM_BYTES);
}

#[test]
fn frames_of_other_lanes_may_come_between() {
    let payload = vec![3; PAYLOAD_MAX + 1];
    let mut long = Vec::new();
    write_message(&mut long, Integrity::Sums, Kind::Chunk, Lane::Data, 7, &[&payload]);
    let first = frame_bytes(Integrity::Sums, &long);
    let mut bytes = long[..first].to_vec();
    write_message(&mut bytes, Integrity::Sums, Kind::Ping, Lane::Control, 1, &[]);
    write_message(&mut bytes, Integrity::Sums, Kind::Call, Lane::Calls, 2, &[b"12345678"]);
    bytes.extend_from_slice(&long[first..]);
    let kinds: Vec<Kind> = whole(&bytes).unwrap().into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [Kind::Ping, Kind::Call, Kind::Chunk]);
}

#[test]
fn every_rule_has_its_error() {
    let frame = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write_message(&mut bytes, Integrity::Sums, Kind::Chunk, Lane::Data, 7, &[b"abc"]);
        let before = bytes.len();
        change(&mut bytes);
        let first = before.min(bytes.len());
        resum(&mut bytes[..first]);
        whole(&bytes).unwrap_err()
    };
    assert_eq!(frame(&|bytes| bytes[4] = 0), FrameError::UnknownKind(0));
    assert_eq!(frame(&|bytes| bytes[4] = 11), FrameError::UnknownKind(11));
    assert_eq!(frame(&|bytes| bytes[5] = 0b1100), FrameError::UnknownFlags(0b1100));
    assert_eq!(frame(&|bytes| bytes[5] = 0b0110), FrameError::UnknownFlags(0b0110));
    let mut reserved = Vec::new();
    write_message(&mut reserved, Integrity::Cipher, Kind::Chunk, Lane::Data, 7, &[b"abc"]);
    reserved[7] = 1;
    let read = decoded_with(Integrity::Cipher, &reserved, &[100], FrameLimits::default());
    assert_eq!(read, Err(FrameError::ReservedBytes));
    assert_eq!(frame(&|bytes| bytes[2] = 2), FrameError::FrameTooLong { length: 0x2_0003 });
    let wrong = FrameError::WrongLane { kind: Kind::Chunk, lane: Lane::Control };
    assert_eq!(frame(&|bytes| bytes[5] = 0), wrong);
    let empty = |bytes: &mut Vec<u8>| {
        bytes.clear();
        write_message(bytes, Integrity::Sums, Kind::Chunk, Lane::Data, 7, &[]);
        bytes[5] |= MORE;
    };
    assert_eq!(frame(&empty), FrameError::EmptyPart);
    let interleaved = |bytes: &mut Vec<u8>| {
        bytes[5] |= MORE;
        write_message(bytes, Integrity::Sums, Kind::Chunk, Lane::Data, 8, &[b"abc"]);
    };
    assert_eq!(frame(&interleaved), FrameError::Interleaved { kind: Kind::Chunk });
}

#[test]
fn a_message_is_refused_when_it_outgrows_its_lane_and_not_by_what_it_claims() {
    let limits = FrameLimits { control_bytes_max: 10, call_bytes_max: 20, data_bytes_max: PAYLOAD_MAX + 10 };
    for (kind, limit) in [(Kind::Message, 10), (Kind::Tell, 20), (Kind::Chunk, PAYLOAD_MAX + 10)] {
        let mut bytes = Vec::new();
        write_message(&mut bytes, Integrity::Sums, kind, lane_of(kind), 7, &[&vec![0; limit]]);
        assert_eq!(decoded(&bytes, &[1000], limits).map(|messages| messages.len()), Ok(1));
        bytes.clear();
        write_message(&mut bytes, Integrity::Sums, kind, lane_of(kind), 7, &[&vec![0; limit + 1]]);
        assert_eq!(decoded(&bytes, &[1000], limits), Err(FrameError::MessageTooLong { limit }));
    }
}

fn messages() -> impl Strategy<Value = Vec<(Kind, u64, Vec<u8>)>> {
    let payload = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0..3 * PAYLOAD_MAX).prop_map(|length| vec![7; length]),
    ];
    prop::collection::vec((prop::sample::select(Kind::ALL.to_vec()), any::<u64>(), payload), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_yields_the_same_messages(
        messages in messages(),
        integrity in prop::sample::select(vec![Integrity::Sums, Integrity::Cipher]),
        pieces in prop::collection::vec(prop_oneof![1..20usize, 1..200_000usize], 1..6),
    ) {
        let mut bytes = Vec::new();
        for (kind, id, payload) in &messages {
            write_message(&mut bytes, integrity, *kind, lane_of(*kind), *id, &[payload]);
        }
        let expected: Vec<_> =
            messages.into_iter().map(|(kind, id, payload)| (kind, lane_of(kind), id, payload)).collect();
        prop_assert!(decoded_with(integrity, &bytes, &pieces, FrameLimits::default()) == Ok(expected));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_held_beyond_the_limits(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        kinds in prop::collection::vec((1..=10u8, 0..6u8, 0..40u8), 0..12),
    ) {
        // Headers that are nearly right, or nothing but noise would be looked at.
        let mut at = 0;
        for (kind, flags, length) in kinds {
            if let Some(header) = bytes.get_mut(at..at + HEADER_BYTES) {
                header[..8].copy_from_slice(&[length, 0, 0, 0, kind, flags, 0, 0]);
            }
            at += HEADER_BYTES + usize::from(length);
        }
        let limits = FrameLimits { control_bytes_max: 64, call_bytes_max: 64, data_bytes_max: 64 };
        let mut decoder = Decoder::new(limits, Integrity::Cipher);
        for byte in bytes {
            while let Ok(Some(_)) = decoder.next() {}
            prop_assert!(decoder.partial.iter().all(|partial| partial.payload.capacity() <= 128));
            prop_assert!(decoder.buffer.capacity() <= READ_BYTES_MAX);
            if decoder.next().is_err() {
                break;
            }
            decoder.room()[0] = byte;
            decoder.filled(1);
        }
    }
}
