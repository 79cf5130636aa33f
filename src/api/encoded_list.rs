//! List responses whose items are encoded once per object and then only copied.
//!
//! kubelet requests both lists every second, and usually only the state of an item changes. The fields of a protobuf
//! message may come in any order. So an item is cached in encoded form without its state, which is appended as the last
//! field: the cache never has to be invalidated. build.rs replaces the generated responses with [`EncodedList`]; the
//! bytes on the wire are those of the proto.

use std::marker::PhantomData;

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use super::v1::{Container, ContainerState, PodSandbox, PodSandboxState};

/// Field number of the only field of the responses, `repeated T`.
const ITEMS: u32 = 1;
/// Field number of `Container.state` in api.proto.
const CONTAINER_STATE: u8 = 6;
/// Field number of `PodSandbox.state` in api.proto.
const SANDBOX_STATE: u8 = 3;

/// An encoded list item. Clones share its bytes.
#[derive(Clone, Debug, Default)]
pub struct Item {
    /// All fields except the state.
    without_state: Bytes,
    /// Key and value of the state, whose value fits into one byte.
    state: [u8; 2],
    /// Whether the state is encoded: protobuf leaves out an enum field with the value 0.
    has_state: bool,
}

impl Item {
    /// Adds a state to a [`Container`] that was encoded without one.
    #[must_use]
    pub fn container(without_state: Bytes, state: ContainerState) -> Self {
        Self::new(without_state, CONTAINER_STATE, i32::from(state))
    }

    /// Adds a state to a [`PodSandbox`] that was encoded without one.
    #[must_use]
    pub fn sandbox(without_state: Bytes, state: PodSandboxState) -> Self {
        Self::new(without_state, SANDBOX_STATE, i32::from(state))
    }

    fn new(without_state: Bytes, field: u8, state: i32) -> Self {
        // A varint below 128 is the value itself; the wire type of varints is 0.
        let value = u8::try_from(state).unwrap_or_default();
        Self { without_state, state: [field << 3, value], has_state: value != 0 }
    }

    fn state(&self) -> &[u8] {
        if self.has_state { &self.state } else { &[] }
    }

    /// Encoded size in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.without_state.len() + self.state().len()
    }
}

/// A list response with the single field `repeated T = 1`.
#[derive(Debug)]
pub struct EncodedList<T> {
    pub items: Vec<Item>,
    item: PhantomData<fn() -> T>,
}

impl<T> Default for EncodedList<T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T> From<Vec<Item>> for EncodedList<T> {
    fn from(items: Vec<Item>) -> Self {
        Self { items, item: PhantomData }
    }
}

impl<T: Message + Default> EncodedList<T> {
    /// Decodes the items, as a client does. The server never needs this.
    ///
    /// # Errors
    /// Fails if the bytes of an item are not a valid `T`.
    pub fn decoded(&self) -> Result<Vec<T>, DecodeError> {
        self.items.iter().map(|item| T::decode(item.without_state.clone().chain(item.state()))).collect()
    }
}

impl<T> Message for EncodedList<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        for item in &self.items {
            encoding::encode_key(ITEMS, WireType::LengthDelimited, buf);
            encoding::encode_varint(item.encoded_len() as u64, buf);
            buf.put_slice(&item.without_state);
            buf.put_slice(item.state());
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != ITEMS {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let mut item = Item::default();
        encoding::bytes::merge(wire_type, &mut item.without_state, buf, ctx)?;
        self.items.push(item);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        let key = encoding::key_len(ITEMS);
        let framed = |length: usize| key + encoding::encoded_len_varint(length as u64) + length;
        self.items.iter().map(|item| framed(item.encoded_len())).sum()
    }

    fn clear(&mut self) {
        self.items.clear();
    }
}

/// Encodes the fields of a container that never change.
#[must_use]
pub fn encode_container(container: &Container) -> Bytes {
    debug_assert_eq!(container.state(), ContainerState::ContainerCreated, "the state comes with the list");
    container.encode_to_vec().into()
}

/// Encodes the fields of a sandbox that never change.
#[must_use]
pub fn encode_sandbox(sandbox: &PodSandbox) -> Bytes {
    debug_assert_eq!(sandbox.state(), PodSandboxState::SandboxReady, "the state comes with the list");
    sandbox.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The response as the proto defines it and any client decodes it.
    #[derive(Clone, PartialEq, Message)]
    struct Plain {
        #[prost(message, repeated, tag = "1")]
        containers: Vec<Container>,
    }

    fn container() -> impl Strategy<Value = Container> {
        let labels = prop::collection::hash_map("[a-z]{0,4}", "[a-z]{0,200}", 0..3);
        ("[0-9a-f]{0,9}", any::<i64>(), labels, 0..4i32).prop_map(|(id, created_at, labels, state)| Container {
            id,
            created_at,
            labels,
            state,
            ..Container::default()
        })
    }

    fn encoded_list(containers: &[Container]) -> EncodedList<Container> {
        let item = |container: &Container| {
            let without_state = encode_container(&Container { state: 0, ..container.clone() });
            Item::container(without_state, container.state())
        };
        containers.iter().map(item).collect::<Vec<_>>().into()
    }

    proptest! {
        #[test]
        fn on_the_wire_it_is_the_protos_list(containers in prop::collection::vec(container(), 0..5)) {
            let list = encoded_list(&containers);
            let bytes = list.encode_to_vec();
            prop_assert_eq!(bytes.len(), list.encoded_len());
            prop_assert_eq!(&Plain::decode(bytes.as_slice()).unwrap().containers, &containers);
            let back = EncodedList::<Container>::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(&back.decoded().unwrap(), &containers);
            prop_assert_eq!(&list.decoded().unwrap(), &containers);
        }
    }

    #[test]
    fn a_sandboxs_state_is_where_the_proto_has_it() {
        for state in [PodSandboxState::SandboxReady, PodSandboxState::SandboxNotready] {
            let without_state = encode_sandbox(&PodSandbox { id: "a".to_owned(), ..PodSandbox::default() });
            let list: EncodedList<PodSandbox> = vec![Item::sandbox(without_state, state)].into();
            let decoded = list.decoded().unwrap();
            assert_eq!((decoded[0].id.as_str(), decoded[0].state()), ("a", state));
        }
    }
}
