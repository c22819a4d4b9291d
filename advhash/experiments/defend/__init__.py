"""What a defence is worth against attackers who know it."""
