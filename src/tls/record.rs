//! The record layer: one record sealed, one opened (RFC 8446 section 5; RFC 5246 section 6.2.3.3,
//! RFC 5288 and RFC 7905 for TLS 1.2).
//!
//! The cipher is AWS-LC's, nonces and what is authenticated beside the content are built by rustls.
//! This file lays out headers, and checks lengths.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use rustls::crypto::cipher::{self, InboundOpaqueMessage, Iv};
use rustls::{AlertDescription, ContentType, ProtocolVersion};

use super::secrets::RecordNumber;
use super::suite::{Suite, TAG_BYTES, Version};

/// Bytes of a record's header: type, version, length.
pub(super) const HEADER_BYTES: usize = 5;
/// The most content of one record.
pub const CONTENT_BYTES_MAX: usize = 16 * 1024;
/// Bytes that a sealed record may have beside its content: padding and an inner type in TLS 1.3,
/// more room in TLS 1.2.
const EXPANSION_MAX_13: usize = 256;
const EXPANSION_MAX_12: usize = 2048;
/// The most bytes of a record, with its header, as a peer may send it.
pub(super) const RECORD_BYTES_MAX: usize = HEADER_BYTES + CONTENT_BYTES_MAX + EXPANSION_MAX_12;

/// The bytes of the record that begins here, as far as its header says so; `None`: more of the
/// header is needed.
pub(super) fn record_bytes(wire: &[u8]) -> Option<usize> {
    let header = wire.first_chunk::<HEADER_BYTES>()?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]])))
}

/// Checks what a record's header says before the rest has come.
pub(super) fn check_header(
    suite: Suite,
    header: [u8; HEADER_BYTES],
) -> Result<(), AlertDescription> {
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let (is_expected, length_max) = match suite.version {
        Version::Tls13 => (
            header[0] == u8::from(ContentType::ApplicationData),
            CONTENT_BYTES_MAX + EXPANSION_MAX_13,
        ),
        Version::Tls12 => (matches!(header[0], 20..=23), CONTENT_BYTES_MAX + EXPANSION_MAX_12),
    };
    if !is_expected {
        return Err(AlertDescription::UnexpectedMessage);
    }
    if length > length_max {
        return Err(AlertDescription::RecordOverflow);
    }
    Ok(())
}

/// Checks what a record's header says during a handshake, before the rest has come.
pub(super) fn check_handshake_header(header: [u8; HEADER_BYTES]) -> Result<(), AlertDescription> {
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let is_data = header[0] == u8::from(ContentType::ApplicationData);
    // The only one that may be sealed in TLS 1.3; in 1.2, no sealed one is long.
    let length_max = if is_data { CONTENT_BYTES_MAX + EXPANSION_MAX_13 } else { CONTENT_BYTES_MAX };
    match (header[0], header[1]) {
        (0..20 | 24.., _) => Err(AlertDescription::UnexpectedMessage),
        (_, major) if major != 3 => Err(AlertDescription::ProtocolVersion),
        _ if length > length_max => Err(AlertDescription::RecordOverflow),
        _ if length == 0 && !is_data => Err(AlertDescription::UnexpectedMessage),
        _ => Ok(()),
    }
}

/// Levels of alerts.
pub(super) const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The content of an alert.
pub(super) fn alert_content(alert: AlertDescription) -> [u8; 2] {
    let level = if alert == AlertDescription::CloseNotify { WARNING } else { FATAL };
    [level, u8::from(alert)]
}

/// Whether this record of a handshake ends it, unsealed.
pub(super) fn is_plain_close_notify(record: &[u8]) -> bool {
    let is_alert = record.first() == Some(&u8::from(ContentType::Alert));
    is_alert && record[HEADER_BYTES..] == alert_content(AlertDescription::CloseNotify)
}

/// Appends an alert that is not sealed: no keys are agreed on.
pub(super) fn write_plain_alert(alert: AlertDescription, out: &mut Vec<u8>) {
    let content = alert_content(alert);
    let version = ProtocolVersion::TLSv1_2.to_array();
    out.extend([u8::from(ContentType::Alert), version[0], version[1], 0, content.len() as u8]);
    out.extend(content);
}

fn nonce(iv: &Iv, number: u64) -> Nonce {
    Nonce::assume_unique_for_key(cipher::Nonce::new(iv, number).0)
}

/// Opens a whole record in place; returns its type and its content.
pub(super) fn open<'r>(
    suite: Suite,
    key: &LessSafeKey,
    iv: &Iv,
    number: RecordNumber,
    record: &'r mut [u8],
) -> Result<(ContentType, &'r mut [u8]), AlertDescription> {
    let (header, body) = record.split_first_chunk_mut::<HEADER_BYTES>().expect("a whole record");
    let number = number.into_u64();
    let Some(content_bytes) = body.len().checked_sub(suite.explicit_bytes() + TAG_BYTES) else {
        return Err(AlertDescription::BadRecordMac);
    };
    let failed = |_| AlertDescription::BadRecordMac;
    if suite.version == Version::Tls13 {
        let opened =
            key.open_in_place(nonce(iv, number), Aad::from(*header), body).map_err(failed)?;
        let (inner_type, len) = unpad(opened)?;
        return Ok((inner_type, &mut opened[..len]));
    }
    let outer_type = ContentType::from(header[0]);
    let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
    let aad = Aad::from(cipher::make_tls12_aad(number, outer_type, version, content_bytes));
    let (explicit, sealed) = body.split_at_mut(suite.explicit_bytes());
    let nonce = match <[u8; 8]>::try_from(&*explicit) {
        Err(_) => nonce(iv, number),
        // The peer chooses this half of its nonces.
        Ok(chosen) => {
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&iv.as_ref()[..4]);
            bytes[4..].copy_from_slice(&chosen);
            Nonce::assume_unique_for_key(bytes)
        }
    };
    let opened = key.open_in_place(nonce, aad, sealed).map_err(failed)?;
    if opened.len() > CONTENT_BYTES_MAX {
        return Err(AlertDescription::RecordOverflow);
    }
    Ok((outer_type, opened))
}

/// The real type of an opened record of TLS 1.3, and the bytes of its content.
fn unpad(opened: &mut [u8]) -> Result<(ContentType, usize), AlertDescription> {
    let outer = (ContentType::ApplicationData, ProtocolVersion::TLSv1_2);
    let plain = InboundOpaqueMessage::new(outer.0, outer.1, opened).into_tls13_unpadded_message();
    plain.map(|plain| (plain.typ, plain.payload.len())).map_err(|error| match error {
        rustls::Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        _ => AlertDescription::UnexpectedMessage,
    })
}

/// A record that is being put together at the end of `out`.
pub(super) struct RecordBuilder<'o> {
    suite: Suite,
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> RecordBuilder<'o> {
    /// The record that begins at `start`, where its header is made room for if there is none.
    pub(super) fn at(suite: Suite, out: &'o mut Vec<u8>, start: usize) -> Self {
        if out.len() == start {
            out.resize(start + HEADER_BYTES + suite.explicit_bytes(), 0);
        }
        Self { suite, out, start }
    }

    /// Whether no more content fits.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() - self.content_start() == CONTENT_BYTES_MAX
    }

    fn content_start(&self) -> usize {
        self.start + HEADER_BYTES + self.suite.explicit_bytes()
    }

    /// Adds as much content as there is room for; returns the rest.
    pub(super) fn add<'p>(&mut self, plain: &'p [u8]) -> &'p [u8] {
        let room = CONTENT_BYTES_MAX - (self.out.len() - self.content_start());
        let (taken, rest) = plain.split_at(plain.len().min(room));
        self.out.extend_from_slice(taken);
        rest
    }

    /// Seals it.
    pub(super) fn seal(self, key: &LessSafeKey, iv: &Iv, number: RecordNumber, kind: ContentType) {
        let (content_start, start) = (self.content_start(), self.start);
        let Self { suite, out, .. } = self;
        let content_bytes = out.len() - content_start;
        let number = number.into_u64();
        let length = (content_bytes + suite.expansion_bytes()) as u16;
        let outer_type = match suite.version {
            Version::Tls13 => ContentType::ApplicationData,
            Version::Tls12 => kind,
        };
        let version = ProtocolVersion::TLSv1_2;
        let mut header = [u8::from(outer_type), 0, 0, 0, 0];
        header[1..3].copy_from_slice(&version.to_array());
        header[3..].copy_from_slice(&length.to_be_bytes());
        out[start..start + HEADER_BYTES].copy_from_slice(&header);
        let tag = match suite.version {
            Version::Tls13 => {
                out.push(u8::from(kind));
                let content = &mut out[content_start..];
                key.seal_in_place_separate_tag(nonce(iv, number), Aad::from(header), content)
            }
            Version::Tls12 => {
                let whole = cipher::Nonce::new(iv, number).0;
                let explicit = &mut out[start + HEADER_BYTES..content_start];
                explicit.copy_from_slice(&whole[whole.len() - explicit.len()..]);
                let aad = cipher::make_tls12_aad(number, kind, version, content_bytes);
                let content = &mut out[content_start..];
                key.seal_in_place_separate_tag(nonce(iv, number), Aad::from(aad), content)
            }
        };
        let tag = tag.expect("a record is far shorter than what a cipher seals at once");
        out.extend_from_slice(tag.as_ref());
    }
}
