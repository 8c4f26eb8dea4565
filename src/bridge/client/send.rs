//! How a client says something to the node.

use crate::{
    bridge::{
        frame::{Kind, Lane, MESSAGE_BYTES_USUAL},
        message::FromClient,
        outbound::Outbound,
    },
    codec,
};

/// Sends a message of the control lane at once.
pub(super) fn send(outbound: &Outbound, id: u64, message: &FromClient) {
    send_in(Lane::Control, outbound, id, message);
}

/// Sends a message at once, in the control lane or that of the calls.
pub(super) fn send_in(lane: Lane, outbound: &Outbound, id: u64, message: &FromClient) {
    let mut payload = Vec::with_capacity(MESSAGE_BYTES_USUAL);
    match codec::encode_into(message, &mut payload) {
        Ok(()) => outbound.push_and_flush(Kind::Message, lane, id, &[&payload]),
        // Parameters of a job that are too large were refused when they were encoded.
        Err(error) => tracing::error!(%error, "a message to the node could not be encoded"),
    }
}
