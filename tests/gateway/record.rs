//! Records of a link, encoded and decoded from what the document says.

pub(crate) const HELLO: u8 = 1;
pub(crate) const OPEN: u8 = 2;
pub(crate) const ACCEPT: u8 = 3;
pub(crate) const REJECT: u8 = 4;
pub(crate) const TEXT: u8 = 5;
pub(crate) const BINARY: u8 = 6;
pub(crate) const ACK: u8 = 7;
pub(crate) const SENT: u8 = 8;
pub(crate) const SLOW: u8 = 9;
pub(crate) const READY: u8 = 10;
pub(crate) const CLOSE: u8 = 11;
pub(crate) const STATE: u8 = 12;
pub(crate) const MANY: u8 = 13;
pub(crate) const ASK: u8 = 14;
pub(crate) const ANSWER: u8 = 15;
pub(crate) const COMMAND: u8 = 16;
pub(crate) const RESULT: u8 = 17;
pub(crate) const DRAIN: u8 = 18;
pub(crate) const PING: u8 = 19;
pub(crate) const PONG: u8 = 20;
pub(crate) const JOIN: u8 = 21;
pub(crate) const LEAVE: u8 = 22;
pub(crate) const JOINED: u8 = 23;
pub(crate) const LEFT: u8 = 24;

pub(crate) const MOVED: u8 = 1;
pub(crate) const REDELIVERED: u8 = 2;
pub(crate) const RECEIPT: u8 = 4;
pub(crate) const IS_BINARY: u8 = 8;

/// In a record about the link itself.
pub(crate) const NO_SESSION: Session = [0; 10];

pub(crate) type Session = [u8; 10];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) session: Session,
    pub(crate) number: u32,
    pub(crate) body: Vec<u8>,
}

impl Record {
    pub(crate) fn new(kind: u8, session: Session, number: u32, body: impl AsRef<[u8]>) -> Self {
        Self { kind, flags: 0, session, number, body: body.as_ref().to_vec() }
    }

    pub(crate) fn with_flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// A text message of a client.
    pub(crate) fn text(session: Session, number: u32, text: &str) -> Self {
        Self::new(TEXT, session, number, text)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.session);
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(&self.body);
        bytes
    }

    /// The records of a message, which holds whole ones.
    pub(crate) fn decode_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (header, rest) = bytes.split_first_chunk::<20>().expect("a whole header");
            let length = u32::from_be_bytes(*header.first_chunk().unwrap()) as usize;
            let (body, rest) = rest.split_at_checked(length).expect("a whole body");
            records.push(Self {
                kind: header[4],
                flags: header[5],
                session: header[6..16].try_into().unwrap(),
                number: u32::from_be_bytes(*header.last_chunk().unwrap()),
                body: body.to_vec(),
            });
            bytes = rest;
        }
        records
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    #[track_caller]
    pub(crate) fn body_text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}
