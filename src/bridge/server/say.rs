//! How a session says something to its client.

use std::sync::Arc;

use crate::{
    bridge::{
        frame::{CONTROL_BYTES_MAX, Kind, Lane, MESSAGE_BYTES_USUAL},
        message::FromNode,
        outbound::{DataMessage, Outbound},
    },
    codec,
    link::Refusal,
};

/// Sends a control message to the client.
pub(super) fn say(outbound: &Outbound, id: u64, message: &FromNode) {
    outbound.push(Kind::Message, Lane::Control, id, &[&encoded(message)]);
}

/// Sends a message to the client behind the items that are under way.
pub(super) fn say_behind(outbound: &Outbound, id: u64, message: &FromNode) {
    let bytes = Arc::new(encoded(message));
    outbound.push_data(DataMessage { kind: Kind::Message, id, head: None, bytes, room: None });
}

fn encoded(message: &FromNode) -> Vec<u8> {
    let mut payload = Vec::with_capacity(MESSAGE_BYTES_USUAL);
    let encoded = codec::encode_into(message, &mut payload);
    if encoded.is_ok() && payload.len() <= CONTROL_BYTES_MAX {
        return payload;
    }
    payload.clear();
    let refusal = Refusal::Internal("the answer is too large to be sent".to_owned());
    codec::encode_into(&FromNode::Reply(Err(refusal)), &mut payload).expect("a refusal is short and plain");
    payload
}
