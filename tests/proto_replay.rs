//! A receiver that is serialized at any point and restored continues as if nothing had happened.

use proptest::prelude::*;
use seawall::proto::ws::{Limits, Receiver, WireEvent};

const LIMITS: Limits = Limits { message_bytes_max: 400, fragments_max: 6 };

fn frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    if payload.len() < 126 {
        bytes.push(0x80 | payload.len() as u8);
    } else {
        bytes.push(0x80 | 0x7e);
        bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

prop_compose! {
    /// Mostly what a client may send; now and then something that ends the connection.
    fn stream()(frames in prop::collection::vec(
        (prop::sample::select(vec![0_u8, 0, 1, 2, 8, 9, 10]), any::<bool>(),
         prop::collection::vec(prop::sample::select(vec![b'a', 0xc3, 0xa9, 0xff]), 0..150),
         any::<[u8; 4]>()), 1..12)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut open = false;
        for (opcode, fin, payload, key) in frames {
            let (opcode, fin, payload) = match opcode {
                8 => (8, true, Vec::new()),
                9.. => (opcode, true, payload[..payload.len().min(125)].to_vec()),
                _ => (if open { 0 } else { opcode.max(1) }, fin, payload),
            };
            if opcode < 8 {
                open = !fin;
            }
            bytes.extend(frame(u8::from(fin) << 7 | opcode, &payload, key));
        }
        bytes
    }
}

/// All events of a stream that arrives in these pieces, restored between them or not.
fn events(stream: &[u8], cuts: &[usize], anew: bool) -> Vec<String> {
    let mut receiver = Receiver::new();
    let mut seen = Vec::new();
    let mut at = 0;
    for end in cuts.iter().copied().chain([stream.len()]) {
        let mut piece = stream[at..end].to_vec();
        at = end;
        let mut input = &mut piece[..];
        while let Some(event) = receiver.next(&mut input, &LIMITS) {
            let ends = matches!(event, WireEvent::Failed(_));
            // Where a payload lies depends on where the input is cut.
            seen.push(match event {
                WireEvent::Message { kind, payload } => {
                    format!("{kind:?} {:?}", payload.as_slice())
                }
                WireEvent::Ping(payload) => format!("ping {:?}", payload.as_slice()),
                WireEvent::Pong(payload) => format!("pong {:?}", payload.as_slice()),
                other => format!("{other:?}"),
            });
            if ends {
                break;
            }
        }
        if anew {
            let state = receiver.serialize().unwrap();
            let text = serde_json::to_string(&state).unwrap();
            receiver = Receiver::restore(&serde_json::from_str(&text).unwrap());
            assert_eq!(receiver.serialize().unwrap(), state, "serializing is idempotent");
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn it_goes_on_where_it_was(
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(events(&stream, &cuts, true), events(&stream, &cuts, false));
    }
}

#[test]
fn every_cut_of_a_fragmented_message() {
    let mut stream = frame(1, "häl".as_bytes(), [1, 2, 3, 4]);
    stream.extend(frame(0x89, b"ping", [5, 6, 7, 8]));
    stream.extend(frame(0, &"f".repeat(200).into_bytes(), [9, 8, 7, 6]));
    stream.extend(frame(0x80, b"end", [0; 4]));
    let whole = events(&stream, &[], false);
    assert_eq!(whole.len(), 2, "{whole:?}");
    for cut in 0..stream.len() {
        assert_eq!(events(&stream, &[cut], true).len(), 2, "cut at {cut}");
        let all: Vec<_> = (0..=cut).collect();
        assert_eq!(events(&stream, &all, true), events(&stream, &all, false), "all up to {cut}");
    }
}
