//! Handshakes: rustls speaks them, and gives the secrets away when they are over.
//!
//! rustls gets one record at a time, so that it never opens one that belongs to the established
//! connection.

use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{AlertDescription as Alert, ExtractedSecrets, HandshakeKind};

use super::key_log::{self, LoggedSecrets};
use super::keys::KeyCache;
use super::record::{self, HEADER_BYTES};
use super::secrets::DirectionSecrets;
use super::session::Session;
use super::settings::ListenerTls;
use super::suite::{Suite, Version};

/// What a client may send before the handshake is over, beside the record under way.
pub(super) const INPUT_BYTES_MAX: usize = 32 * 1024;

/// Why a handshake has failed.
#[derive(Clone, Debug, PartialEq)]
pub enum HandshakeError {
    /// As rustls says.
    Protocol(rustls::Error),
    /// The client sends more than a handshake takes.
    TooLong,
    /// The client has ended it.
    Closed,
    /// A record begins with a header that none can have; the alert that says so.
    BadHeader(Alert),
}

impl HandshakeError {
    /// The alert for an error that rustls answers with none.
    fn alert(&self) -> Option<Alert> {
        match self {
            Self::Closed | Self::Protocol(rustls::Error::AlertReceived(_)) => None,
            Self::TooLong | Self::Protocol(rustls::Error::InvalidMessage(_)) => {
                Some(Alert::DecodeError)
            }
            Self::Protocol(_) => Some(Alert::UnexpectedMessage),
            Self::BadHeader(alert) => Some(*alert),
        }
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Protocol(error) => error.fmt(f),
            Self::TooLong => f.write_str("the client sends more than a handshake takes"),
            Self::Closed => f.write_str("the client has closed the connection"),
            Self::BadHeader(alert) => write!(f, "a record's header cannot be valid: {alert:?}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        Self::Protocol(error)
    }
}

/// How a handshake was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeFacts {
    pub version: Version,
    /// An earlier connection was resumed.
    pub is_resumed: bool,
    /// The group of the key exchange; `None`: there was none.
    pub group: Option<&'static str>,
    /// The cipher that protects records, as metrics name it.
    pub cipher: &'static str,
}

/// A handshake under way.
pub struct TlsHandshake {
    connection: UnbufferedServerConnection,
    /// What has come and is not used up; rustls has seen the first `fed` bytes of it.
    input: Vec<u8>,
    fed: usize,
    secrets: LoggedSecrets,
    is_over: bool,
    /// Something was sent: from then on, an alert may have to be sealed, which rustls alone can do.
    has_answered: bool,
}

impl std::fmt::Debug for TlsHandshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsHandshake").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl TlsHandshake {
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(listener: &ListenerTls) -> Result<Self, HandshakeError> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(listener.0.clone())?,
            input: Vec::new(),
            fed: 0,
            secrets: LoggedSecrets::default(),
            is_over: false,
            has_answered: false,
        })
    }

    /// Bytes of memory for what has come.
    pub fn partial_bytes(&self) -> usize {
        self.input.capacity()
    }

    /// Takes what the client has sent, to be processed by [`Self::advance`]. Returns whether so
    /// much waits that this must be next.
    pub fn push(&mut self, wire: &[u8]) -> bool {
        self.input.extend_from_slice(wire);
        self.input.len() > INPUT_BYTES_MAX
    }

    /// Processes what has come, and appends the answer to `output`, an alert among it where it has
    /// failed. Returns whether the handshake is over; [`Self::finish`] follows then.
    ///
    /// # Errors
    /// It has failed; nothing more may be done with it.
    pub fn advance(&mut self, output: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        let advanced = self.process_records(output);
        if let Err(error) = &advanced
            && !self.has_answered
            && let Some(alert) = error.alert()
        {
            record::write_plain_alert(alert, output);
        }
        advanced
    }

    /// Gives rustls the records that have wholly come, one by one.
    fn process_records(&mut self, output: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        while !self.is_over {
            let unfed = &self.input[self.fed..];
            let Some(header) = unfed.first_chunk() else { break };
            if let Err(alert) = record::check_handshake_header(*header) {
                if self.has_answered {
                    self.feed(HEADER_BYTES, output)?;
                }
                return Err(HandshakeError::BadHeader(alert));
            }
            if self.fed > INPUT_BYTES_MAX {
                return Err(HandshakeError::TooLong);
            }
            let Some(record) = record::record_bytes(unfed).and_then(|bytes| unfed.get(..bytes))
            else {
                break;
            };
            if record::is_plain_close_notify(record) {
                return Err(HandshakeError::Closed);
            }
            let bytes = record.len();
            self.feed(bytes, output)?;
        }
        Ok(self.is_over)
    }

    /// Lets rustls process so much more of the input.
    fn feed(&mut self, bytes: usize, output: &mut Vec<u8>) -> Result<(), HandshakeError> {
        self.fed += bytes;
        let stepped = self.step(output);
        let logged = key_log::take();
        if logged.is_complete() {
            self.secrets = logged;
        }
        stepped
    }

    /// Lets rustls process what it was given.
    fn step(&mut self, output: &mut Vec<u8>) -> Result<(), HandshakeError> {
        loop {
            let fed = &mut self.input[..self.fed];
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(fed);
            let mut is_waiting = false;
            let mut result = Ok(());
            match state {
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, output);
                    self.has_answered = true;
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::BlockedHandshake) => is_waiting = true,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    is_waiting = true;
                    self.is_over = true;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    result = Err(HandshakeError::Closed);
                }
                Ok(_) => {
                    let text = "data before the end of the handshake".to_owned();
                    result = Err(rustls::Error::General(text).into());
                }
                Err(error) => result = Err(error.into()),
            }
            if result.is_err() {
                self.encode_alert(output);
                return result;
            }
            self.input.drain(..discard);
            self.fed -= discard;
            if is_waiting {
                self.is_over &= !self.connection.is_handshaking();
                return Ok(());
            }
        }
    }

    /// Appends the alert by which rustls explains a failure: it comes before anything else, if the
    /// input is still the one that has failed.
    fn encode_alert(&mut self, output: &mut Vec<u8>) {
        let fed = &mut self.input[..self.fed];
        if let Ok(ConnectionState::EncodeTlsData(data)) =
            self.connection.process_tls_records(fed).state
        {
            encode(data, output);
            self.has_answered = true;
        }
    }

    /// The established connection, and what came behind the handshake. `last_flight`: what of the
    /// handshake's output has not been sent.
    ///
    /// # Errors
    /// The handshake has settled on something that is not supported here.
    ///
    /// # Panics
    /// The handshake is not over.
    pub fn finish(
        self,
        keys: &mut KeyCache,
        last_flight: Vec<u8>,
    ) -> Result<(Session, HandshakeFacts, Vec<u8>), HandshakeError> {
        assert!(self.is_over, "a handshake is finished when it is over");
        let Self { connection, mut input, fed, secrets, .. } = self;
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let group = connection.negotiated_key_exchange_group().and_then(|g| g.name().as_str());
        let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
        let session = session(keys, extracted, &kernel, &secrets, last_flight)?;
        let (version, cipher) = (session.version(), session.cipher_name());
        let facts = HandshakeFacts { version, is_resumed, group, cipher };
        input.drain(..fed);
        Ok((session, facts, input))
    }
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, output: &mut Vec<u8>) {
    let start = output.len();
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        output.resize(start + needed.required_size, 0);
        let encoded = data.encode(&mut output[start..]);
        debug_assert!(encoded.is_ok(), "there is as much room as was asked for");
    }
}

fn session(
    keys: &mut KeyCache,
    extracted: ExtractedSecrets,
    kernel: &KernelConnection<ServerConnectionData>,
    secrets: &LoggedSecrets,
    last_flight: Vec<u8>,
) -> Result<Session, HandshakeError> {
    let unsupported = || rustls::Error::General("a cipher that is not supported".to_owned());
    let version = Version::from_protocol(kernel.protocol_version()).ok_or_else(unsupported)?;
    if version == Version::Tls13 && !secrets.is_complete() {
        return Err(rustls::Error::General("no traffic secrets".to_owned()).into());
    }
    let ExtractedSecrets { tx, rx } = extracted;
    let receive = DirectionSecrets::new(rx.0, &rx.1, &secrets.client).ok_or_else(unsupported)?;
    let send = DirectionSecrets::new(tx.0, &tx.1, &secrets.server).ok_or_else(unsupported)?;
    let suite = Suite { version, cipher: receive.0 };
    Ok(Session::new(keys.next_session(), suite, receive.1, send.1, last_flight))
}
