//! A peer that says exactly what a test has it say.

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{host, over};
use crate::{
    bridge::{
        ClientEncryption, Key, KeyRing, NodeEncryption,
        frame::{Decoder, Integrity, Kind, Lane, write_message},
        handshake::{ClientSide, NodeSide},
        message::{FromClient, FromNode, Goodbye},
        stream::{ReadHalf, WriteHalf},
        worker::message::{FromWorker, ToWorker, frame_limits},
    },
    codec,
};

pub(super) struct Raw {
    reader: ReadHalf,
    writer: WriteHalf,
    integrity: Integrity,
    decoder: Decoder,
}

impl Raw {
    /// The end of a client with this key and number.
    pub async fn client(stream: DuplexStream, key: &Key, number: u128) -> Self {
        let (encryption, host) = (ClientEncryption::default(), host());
        let side = ClientSide { key, client: number, encryption: &encryption, host: &host };
        let met = side.connect(over(stream)).await.unwrap_or_else(|error| panic!("{error}"));
        Self::new(met.stream.halves(), met.integrity)
    }

    /// The end of a node with this key, and the number of its client.
    pub async fn node(stream: DuplexStream, key: &Key) -> (Self, u128) {
        let (encryption, keys, host) = (NodeEncryption::of_tests(), KeyRing::of_tests(key.clone()), host());
        let side = NodeSide { keys: &keys, incarnation: 2, encryption: &encryption, host: &host };
        let met = side.accept(over(stream)).await.unwrap_or_else(|(error, _)| panic!("{error}"));
        let who = met.peer.0.who;
        (Self::new(met.stream.halves(), met.integrity), who)
    }

    fn new((reader, writer): (ReadHalf, WriteHalf), integrity: Integrity) -> Self {
        Self { reader, writer, integrity, decoder: Decoder::new(frame_limits(), integrity) }
    }

    /// The other side may have gone.
    pub async fn send(&mut self, kind: Kind, lane: Lane, id: u64, payload: &[u8]) {
        let mut bytes = Vec::new();
        write_message(&mut bytes, self.integrity, kind, lane, id, &[payload]);
        let _ = self.writer.write_all(&bytes).await;
    }

    async fn message(&mut self, id: u64, message: &impl Serialize) {
        let mut payload = Vec::new();
        codec::encode_into(message, &mut payload).expect("it can be encoded");
        self.send(Kind::Message, Lane::Calls, id, &payload).await;
    }

    pub async fn ask(&mut self, id: u64, message: FromClient) {
        self.message(id, &message).await;
    }

    pub async fn says(&mut self, id: u64, message: FromWorker) {
        self.message(id, &FromClient::Worker(message)).await;
    }

    pub async fn tells(&mut self, id: u64, message: ToWorker) {
        self.message(id, &FromNode::Worker(message)).await;
    }

    /// The next message of any kind; none at the end of the stream.
    pub async fn any(&mut self) -> Option<(Kind, u64, Vec<u8>)> {
        loop {
            if let Some(message) = self.decoder.next().expect("they are frames") {
                return Some((message.kind, message.id, message.payload.to_vec()));
            }
            if self.read().await == 0 {
                return None;
            }
        }
    }

    /// Reads once. How many bytes came.
    async fn read(&mut self) -> usize {
        let count = self.reader.read(self.decoder.room()).await.unwrap_or(0);
        self.decoder.filled(count);
        count
    }

    /// Ready once so many bytes have come of a message that is not whole yet.
    pub async fn begun(&mut self, bytes: usize) {
        while self.decoder.bytes_held() < bytes {
            assert!(self.read().await > 0, "the connection ended");
        }
    }

    /// The next message that is no pong.
    async fn next(&mut self) -> Option<(Kind, u64, Vec<u8>)> {
        loop {
            match self.any().await {
                Some((Kind::Pong, ..)) => {}
                other => return other,
            }
        }
    }

    /// The next ping or message; `Err` with the goodbye, or with none if the stream ended without.
    pub async fn hear<M: DeserializeOwned>(&mut self) -> Result<(u64, Option<M>), Option<Goodbye>> {
        match self.next().await {
            None => Err(None),
            Some((Kind::Goodbye, _, payload)) => Err(Some(codec::decode(&payload).expect("it is one"))),
            Some((Kind::Message, id, payload)) => Ok((id, Some(codec::decode(&payload).expect("it is one")))),
            Some((Kind::Ping, id, _)) => Ok((id, None)),
            Some((kind, ..)) => panic!("a message of kind {kind:?}"),
        }
    }

    /// The next message, as a node that answers pings.
    pub async fn of_worker(&mut self) -> Result<(u64, FromWorker), Option<Goodbye>> {
        loop {
            match self.hear::<FromClient>().await? {
                (id, Some(FromClient::Worker(message))) => return Ok((id, message)),
                (_, Some(other)) => panic!("{other:?} from a worker"),
                (ping, None) => self.send(Kind::Pong, Lane::Control, ping, &[]).await,
            }
        }
    }

    /// The next message that is no welcome, as a worker, which does not mind pings.
    pub async fn of_node(&mut self) -> Result<(u64, FromNode), Option<Goodbye>> {
        loop {
            match self.hear::<FromNode>().await? {
                (_, None | Some(FromNode::Welcome { .. })) => {}
                (id, Some(message)) => return Ok((id, message)),
            }
        }
    }

    /// The same, from a node that speaks to a worker.
    pub async fn order(&mut self) -> (u64, ToWorker) {
        match self.of_node().await {
            Ok((id, FromNode::Worker(message))) => (id, message),
            other => panic!("{other:?} to a worker"),
        }
    }

    /// How the other side ends the connection.
    pub async fn end(&mut self) -> Option<Goodbye> {
        loop {
            match self.next().await {
                None => return None,
                Some((Kind::Goodbye, _, payload)) => return Some(codec::decode(&payload).expect("it is one")),
                Some(_) => {}
            }
        }
    }
}
