"""From a fitted pipeline to arrays and back to answers: compiling it, proving that nothing changed, and scoring what is served."""
