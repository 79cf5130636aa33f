//! List responses whose items are encoded once in their life and then only copied.
//!
//! kubelet asks for both lists each second, and all that ever changes of an item is its state. Protobuf's fields may come
//! in any order, so an item is kept encoded without its state, which is added as the last field: nothing has to be
//! invalidated. build.rs puts [`Spliced`] in the place of the generated responses; on the wire they are the proto's.

use std::marker::PhantomData;

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use super::v1::{Container, ContainerState, PodSandbox, PodSandboxState};

/// Number of the one field of the responses, `repeated T`.
const ITEMS: u32 = 1;
/// `Container.state` in api.proto.
const CONTAINER_STATE: u8 = 6;
/// `PodSandbox.state` in api.proto.
const SANDBOX_STATE: u8 = 3;

/// An encoded item. Clones share its bytes.
#[derive(Clone, Debug, Default)]
pub struct Item {
    /// All fields but the state.
    fixed: Bytes,
    /// Key and value of the state, which is a small enum.
    state: [u8; 2],
    /// Whether there is one: an enum's 0 is not encoded.
    has_state: bool,
}

impl Item {
    /// An encoded [`Container`] without state, in a state.
    #[must_use]
    pub fn container(fixed: Bytes, state: ContainerState) -> Self {
        Self::new(fixed, CONTAINER_STATE, i32::from(state))
    }

    /// An encoded [`PodSandbox`] without state, in a state.
    #[must_use]
    pub fn sandbox(fixed: Bytes, state: PodSandboxState) -> Self {
        Self::new(fixed, SANDBOX_STATE, i32::from(state))
    }

    fn new(fixed: Bytes, field: u8, state: i32) -> Self {
        // Below 128 a varint is its value; the wire type of varints is 0.
        let value = u8::try_from(state).unwrap_or_default();
        Self { fixed, state: [field << 3, value], has_state: value != 0 }
    }

    fn state(&self) -> &[u8] {
        if self.has_state { &self.state } else { &[] }
    }

    /// Size in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.fixed.len() + self.state().len()
    }
}

/// A response that is a list of `T`: `repeated T = 1`.
#[derive(Debug)]
pub struct Spliced<T> {
    /// The items, encoded.
    pub items: Vec<Item>,
    item: PhantomData<fn() -> T>,
}

impl<T> Default for Spliced<T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T> From<Vec<Item>> for Spliced<T> {
    fn from(items: Vec<Item>) -> Self {
        Self { items, item: PhantomData }
    }
}

impl<T: Message + Default> Spliced<T> {
    /// The items as a client wants them; the server never asks.
    ///
    /// # Errors
    /// For bytes that are no `T`.
    pub fn decoded(&self) -> Result<Vec<T>, DecodeError> {
        self.items.iter().map(|item| T::decode(item.fixed.clone().chain(item.state()))).collect()
    }
}

impl<T> Message for Spliced<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        for item in &self.items {
            encoding::encode_key(ITEMS, WireType::LengthDelimited, buf);
            encoding::encode_varint(item.encoded_len() as u64, buf);
            buf.put_slice(&item.fixed);
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
        encoding::bytes::merge(wire_type, &mut item.fixed, buf, ctx)?;
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

/// The fields of a container that never change, encoded.
#[must_use]
pub fn encode_container(container: &Container) -> Bytes {
    debug_assert_eq!(container.state(), ContainerState::ContainerCreated, "the state comes with the list");
    container.encode_to_vec().into()
}

/// The fields of a sandbox that never change, encoded.
#[must_use]
pub fn encode_sandbox(sandbox: &PodSandbox) -> Bytes {
    debug_assert_eq!(sandbox.state(), PodSandboxState::SandboxReady, "the state comes with the list");
    sandbox.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The proto's response, as any client has it.
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

    fn spliced(containers: &[Container]) -> Spliced<Container> {
        let item = |container: &Container| {
            let fixed = encode_container(&Container { state: 0, ..container.clone() });
            Item::container(fixed, container.state())
        };
        containers.iter().map(item).collect::<Vec<_>>().into()
    }

    proptest! {
        #[test]
        fn on_the_wire_it_is_the_protos_list(containers in prop::collection::vec(container(), 0..5)) {
            let list = spliced(&containers);
            let bytes = list.encode_to_vec();
            prop_assert_eq!(bytes.len(), list.encoded_len());
            prop_assert_eq!(&Plain::decode(bytes.as_slice()).unwrap().containers, &containers);
            let back = Spliced::<Container>::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(&back.decoded().unwrap(), &containers);
            prop_assert_eq!(&list.decoded().unwrap(), &containers);
        }
    }

    #[test]
    fn a_sandboxs_state_is_where_the_proto_has_it() {
        for state in [PodSandboxState::SandboxReady, PodSandboxState::SandboxNotready] {
            let fixed = encode_sandbox(&PodSandbox { id: "a".to_owned(), ..PodSandbox::default() });
            let list: Spliced<PodSandbox> = vec![Item::sandbox(fixed, state)].into();
            let decoded = list.decoded().unwrap();
            assert_eq!((decoded[0].id.as_str(), decoded[0].state()), ("a", state));
        }
    }
}
