"""What the configs of SSR share."""
