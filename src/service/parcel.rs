//! Messages of a queue as they go to an instance in another process.

use std::sync::Arc;

use crate::service::{
    CallError, Parcel, Sender, Withdrawal,
    envelope::{EncodedCall, Queued},
    gate::Gate,
};

impl<S> Queued<S> {
    /// The message for an instance in another process, with its place in the service's table; nothing if it is none, or not
    /// wanted any more, and then its caller is told.
    pub(super) fn parcel(self, gate: &Gate<S>, number: u64, withdrawal: Arc<dyn Withdrawal>) -> Option<(u32, Parcel)> {
        let (message, bytes, sender) = match self {
            Self::Tell(tell, _) => {
                let name = tell.message();
                let (message, bytes) = tell.encode();
                let bytes = bytes.map_err(|error| error.to_string()).and_then(fitting).inspect_err(|why| {
                    tracing::warn!(service = %gate.name(), message = name, why, "a told message was lost");
                });
                (message, bytes.ok()?, Sender::Teller(None))
            }
            Self::Call(call, _) => {
                let name = call.message();
                let EncodedCall { message, bytes, caller } = call.encode(number, withdrawal)?;
                match bytes.map_err(|error| error.to_string()).and_then(fitting) {
                    Ok(bytes) => (message, bytes, Sender::Caller(caller)),
                    Err(why) => {
                        let (service, message) = (gate.name().to_string(), name.to_owned());
                        caller.answer(Err(CallError::NotCarried { service, message, why }));
                        return None;
                    }
                }
            }
            Self::Told { batch, at, .. } => {
                let (message, bytes, receipt) = batch.encoded(at);
                (message, bytes, Sender::Teller(Some(receipt)))
            }
        };
        // It was let in because it is listed.
        let kind = gate.kind_of(message)?;
        Some((kind, Parcel { bytes, sender }))
    }
}

/// Bytes of a message at most, as over any connection.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

fn fitting(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if bytes.len() <= MESSAGE_BYTES_MAX {
        return Ok(bytes);
    }
    Err(format!("it takes {} bytes, and may take {MESSAGE_BYTES_MAX}", bytes.len()))
}
