"""Text before it is tokenised: cleaned, spoken out in words, and cut where a speaker would breathe."""
