//! Whether a connection is encrypted, and the place in the handshake where it becomes so. The only place that knows that a
//! program may be built without encryption.

#[cfg(feature = "tls")]
use parking_lot::Mutex;

#[cfg(feature = "tls")]
use super::{
    admission::Admission,
    tls::{self, RawIdentity, TlsIdentity, TlsTrust},
};
use super::{
    frame::Integrity,
    hello::{Hello, HelloError},
    stream::{Reach, Stream},
};
use crate::host::Host;

/// A stream over which the proofs can be said.
pub(super) struct Sealed {
    pub stream: Box<dyn Stream>,
    /// What both ends of an encrypted stream know and nobody else; empty for one in the clear.
    pub binding: Vec<u8>,
    pub integrity: Integrity,
}

impl Sealed {
    pub(super) fn clear(stream: Box<dyn Stream>) -> Self {
        Self { stream, binding: Vec::new(), integrity: Integrity::Sums }
    }
}

/// What a client wants of its connections.
#[derive(Default)]
pub(crate) struct ClientEncryption {
    /// On this machine, too.
    pub always: bool,
    /// Which certificate of which host, if the client wants one.
    #[cfg(feature = "tls")]
    pub trust: Option<TlsTrust>,
    #[cfg(feature = "tls")]
    pub host: String,
}

impl ClientEncryption {
    /// For connections that others could read along; `always`: for all.
    pub(super) fn without_certificate(always: bool) -> Self {
        Self {
            always,
            #[cfg(feature = "tls")]
            trust: None,
            #[cfg(feature = "tls")]
            host: String::new(),
        }
    }

    pub(super) fn is_needed(&self, reach: Reach) -> bool {
        self.always || self.wants_certificate() || matches!(reach, Reach::Beyond(_))
    }

    #[cfg(feature = "tls")]
    pub(super) fn wants_certificate(&self) -> bool {
        self.trust.is_some()
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn wants_certificate(&self) -> bool {
        false
    }

    #[cfg(feature = "tls")]
    pub(super) async fn seal(&self, stream: Box<dyn Stream>, pin: Option<[u8; 32]>) -> Result<Sealed, HelloError> {
        tls::connect(stream, self.trust.as_ref(), &self.host, pin).await
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn seal(&self, _: Box<dyn Stream>, _: Option<[u8; 32]>) -> Result<Sealed, HelloError> {
        Err(HelloError::CannotEncrypt)
    }
}

/// What a node wants of its connections.
pub(crate) struct NodeEncryption {
    /// On this machine, too.
    always: bool,
    /// For the clients that want a certificate.
    #[cfg(feature = "tls")]
    identity: Option<TlsIdentity>,
    /// For those that do not.
    #[cfg(feature = "tls")]
    raw: RawIdentity,
    #[cfg(feature = "tls")]
    admission: Mutex<Admission>,
}

impl NodeEncryption {
    /// For connections that others could read along; `always`: for all.
    #[cfg(feature = "tls")]
    pub(crate) fn new(always: bool, raw: RawIdentity, identity: Option<TlsIdentity>) -> Self {
        Self { always, identity, raw, admission: Mutex::default() }
    }

    /// That of a server which listens on this machine alone.
    ///
    /// # Errors
    ///
    /// Its key pair could not be made.
    #[cfg_attr(not(feature = "tls"), allow(unused_variables, reason = "without encryption there is no key pair"))]
    pub(crate) fn on_this_machine(seed: &[u8; 32]) -> std::io::Result<Self> {
        #[cfg(feature = "tls")]
        return Ok(Self::new(false, RawIdentity::of_seed(seed).map_err(std::io::Error::other)?, None));
        #[cfg(not(feature = "tls"))]
        return Ok(Self::none());
    }

    /// For none: there is no encryption.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn none() -> Self {
        Self { always: false }
    }

    /// That of a node without a certificate.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of_tests() -> Self {
        #[cfg(feature = "tls")]
        let encryption = Self::new(false, RawIdentity::of_seed(&[9; 32]).expect("any 32 bytes are a key"), None);
        #[cfg(not(feature = "tls"))]
        let encryption = Self::none();
        encryption
    }

    pub(super) fn is_needed(&self, reach: Reach) -> bool {
        self.always || matches!(reach, Reach::Beyond(_))
    }

    /// # Errors
    ///
    /// What the client wants cannot be had here.
    #[cfg(feature = "tls")]
    pub(super) fn suits(&self, client: &Hello, _: Reach) -> Result<(), HelloError> {
        if client.wants_certificate() && self.identity.is_none() { Err(HelloError::NoCertificate) } else { Ok(()) }
    }

    /// # Errors
    ///
    /// What the client wants cannot be had here.
    #[cfg(not(feature = "tls"))]
    pub(super) fn suits(&self, client: &Hello, reach: Reach) -> Result<(), HelloError> {
        if client.wants_certificate() || client.needs_encryption() || self.is_needed(reach) {
            return Err(HelloError::CannotEncrypt);
        }
        Ok(())
    }

    /// Waits until the client's network may have another handshake.
    #[cfg(feature = "tls")]
    pub(super) async fn admit(&self, reach: Reach, host: &Host) -> Result<(), HelloError> {
        let Reach::Beyond(address) = reach else { return Ok(()) };
        let turn = self.admission.lock().turn(address, host.now());
        let wait = turn.ok_or(HelloError::TooManyHandshakes)?;
        if !wait.is_zero() {
            host.sleep(wait).await;
        }
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn admit(&self, _: Reach, _: &Host) -> Result<(), HelloError> {
        Ok(())
    }

    #[cfg(feature = "tls")]
    pub(super) async fn seal(&self, stream: Box<dyn Stream>, client: &Hello) -> Result<Sealed, HelloError> {
        let identity = self.identity.as_ref().filter(|_| client.wants_certificate());
        tls::accept(stream, identity, &self.raw).await
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn seal(&self, _: Box<dyn Stream>, _: &Hello) -> Result<Sealed, HelloError> {
        Err(HelloError::CannotEncrypt)
    }
}
