"""Messages, frames, connections and authentication."""
