//! How the log writes a line: like tracing-subscriber, with the keys of the current task after the line's own fields.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{DefaultFields, Format, FormatEvent, FormatFields, Json, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::log_keys::{LogKeys, current_keys};

/// The keys of the current task that a line does not have as fields of its own.
struct Missing(LogKeys);

impl Visit for Missing {
    fn record_debug(&mut self, field: &Field, _: &dyn fmt::Debug) {
        self.0.remove(field.name());
    }
}

/// A line's fields and keys as text.
pub(super) struct TextFields(pub(super) DefaultFields);

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut missing = Missing(current_keys());
        fields.record(&mut missing);
        self.0.format_fields(writer.by_ref(), fields)?;
        for (name, value) in missing.0.iter() {
            // What a client sent may have any characters. Ids and the names of kubelet's pods need no quotes.
            if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/:@".contains(&byte)) {
                write!(writer, " {name}={value}")?;
            } else {
                write!(writer, " {name}={value:?}")?;
            }
        }
        Ok(())
    }
}

/// A line as a JSON object.
pub(super) struct JsonLine(pub(super) Format<Json>);

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut missing = Missing(current_keys());
        event.record(&mut missing);
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        // The object is complete, so the keys go before its last brace.
        writer.write_str(line.trim_end().strip_suffix('}').ok_or(fmt::Error)?)?;
        for (name, value) in missing.0.iter() {
            let value = serde_json::to_string(value).map_err(|_| fmt::Error)?;
            write!(writer, ",\"{name}\":{value}")?;
        }
        writer.write_str("}\n")
    }
}
