"""The doorbell: Celery messages that say "there is work on this queue", and the server they go through."""
