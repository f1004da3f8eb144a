"""Pictures: where each budget computed, how it trained, accuracy over cost."""
