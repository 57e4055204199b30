"""The search page and the JSON interface: question batcher, web application, page templates."""
